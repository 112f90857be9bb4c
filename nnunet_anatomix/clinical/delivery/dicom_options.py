"""Options of the DICOM objects of a delivery, also the flags of the commands that deliver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pretraining.common.rare_flags import Rare


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """DICOM objects to write for each case whose source is DICOM."""

    segmentation_type: Rare[Literal["binary", "labelmap"]] = "binary"
    """DICOM SEG with a bitmap per structure, or one label map (Supplement 243; few viewers yet)."""
    compress: Rare[bool] = False
    """Compress the DICOM SEG: a binary one as deflated file, a label map by RLE."""
    keep_empty_frames: Rare[bool] = False
    """Write frames without any labelled voxel too, for viewers that need every slice."""
    rtstruct: bool = False
    """Write an RT Structure Set: the outlines of all structures on the source slices."""
    report: bool = False
    """Write a structured report (TID 1500) with the volumes, which refers to the DICOM SEG."""
    secondary_capture: Rare[bool] = False
    """Write the overview picture as DICOM Secondary Capture."""

    @property
    def wants_more_than_segmentation(self) -> bool:
        """True if objects other than the DICOM SEG are wanted."""
        return self.rtstruct or self.report or self.secondary_capture
