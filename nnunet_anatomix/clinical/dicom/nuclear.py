"""Reconstructed nuclear medicine (SPECT): a file of slices, with the place of the first one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from pretraining.imaging.rejection import Unusable

_DETECTORS = "DetectorInformationSequence"
_VECTORS = {
    "EnergyWindowVector": "acquisition",
    "RRIntervalVector": "trigger_time",
    "TimeSlotVector": "temporal_position",
}
"""Keyword of an index per frame other than its slice → field that distinguishes the volumes."""


def is_nuclear_volume(header: SliceHeader) -> bool:
    """Return whether a file may hold reconstructed slices of nuclear medicine."""
    return header.modality == "NM" and (header.frames > 1 or header.position_mm is None) and not header.is_enhanced


def nuclear_headers(path: Path, header: SliceHeader) -> list[SliceHeader]:
    """Return one header per frame of a reconstructed nuclear medicine file.

    Args:
        path: Path of the file.
        header: Header of the file.

    Raises:
        Unusable: If the frames are not slices, such as planar images or projections, or have no
            place.

    Notes:
        Slices follow each other along the normal of the first one (row × column) if
        SpacingBetweenSlices is positive, else against it (PS3.3, C.8.4.15).
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True, force=True)
        return list(_frames(dataset, header))
    except (Unusable, OSError):
        raise
    except Exception:  # pydicom's conversions raise many types
        raise Unusable("multi-frame file with damaged tags") from None


def _frames(dataset: Dataset, header: SliceHeader) -> Iterator[SliceHeader]:
    detectors = list(dataset.get(_DETECTORS) or [dataset])
    is_tomographic = any(value.startswith("RECON") for value in header.image_type)
    if "SliceVector" not in dataset and not is_tomographic:
        raise Unusable("multi-frame file without frame positions")
    spacing_mm = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 0)
    slices = _indices(dataset, "SliceVector", header.frames) or list(range(1, header.frames + 1))
    of_detector = _indices(dataset, "DetectorVector", header.frames) or [1] * header.frames
    others = {field: _indices(dataset, keyword, header.frames) for keyword, field in _VECTORS.items()}
    if not spacing_mm:
        raise Unusable("multi-frame file without slice spacing")
    for number in range(header.frames):
        detector = detectors[of_detector[number] - 1 if 0 < of_detector[number] <= len(detectors) else 0]
        position, orientation = (
            detector.get(keyword) or dataset.get(keyword)
            for keyword in ("ImagePositionPatient", "ImageOrientationPatient")
        )
        if not position or not orientation:
            raise Unusable("multi-frame file without frame positions")
        along_x, along_y = np.array(orientation, dtype=float).reshape(2, 3)
        step_mm = spacing_mm * np.cross(along_x, along_y)
        place_mm = np.array(position, dtype=float) + (slices[number] - 1) * step_mm
        tags: dict[str, Any] = {field: float(index[number]) for field, index in others.items() if index}
        yield replace(
            header,
            frame=number + 1,
            position_mm=tuple(place_mm.tolist()),
            orientation=(*along_x.tolist(), *along_y.tolist()),
            **tags,
        )


def _indices(dataset: Dataset, keyword: str, frames: int) -> list[int]:
    """Return the index of each frame; empty if the tag is missing or has another length."""
    value = dataset.get(keyword)
    found = [int(value)] if isinstance(value, int) else [int(each) for each in value or ()]
    return found if len(found) == frames else []
