"""Enhanced multi-frame DICOM: one file holds all slices of a series, each with its own position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from nnunet_anatomix.clinical.dicom.frame_content import AGENTS, frame_content, read_agents
from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from pretraining.imaging.rejection import Unusable

_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


def frame_headers(path: Path, header: SliceHeader) -> list[SliceHeader]:
    """Return one header per frame of a multi-frame file, in the order of the file.

    Args:
        path: Path of the file.
        header: Header of the file.

    Raises:
        Unusable: If the frames have no positions (as in ultrasound or angiography), or the tags are
            damaged.
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=[_SHARED, _PER_FRAME, AGENTS])
        if _PER_FRAME not in dataset:
            raise Unusable("multi-frame file without frame positions")
        content = read_agents(header.content, dataset)
        headers = [
            replace(header, frame=number, **tags)
            for number, tags in enumerate(_frame_tags(dataset, replace(header, content=content)), 1)
        ]
    except (Unusable, OSError):
        raise
    except Exception:  # pydicom's conversions raise many types
        raise Unusable("multi-frame file with damaged tags") from None
    if len(headers) != header.frames:
        raise Unusable(f"multi-frame file of {header.frames} frames, of which {len(headers)} are described")
    return headers


def _frame_tags(dataset: Dataset, header: SliceHeader) -> Iterator[dict[str, Any]]:
    shared = dataset.get(_SHARED) or [Dataset()]
    for frame in dataset[_PER_FRAME].value:

        def value(sequence: str, keyword: str, frame: Dataset = frame) -> Any:
            item = (frame.get(sequence) or shared[0].get(sequence) or [Dataset()])[0]
            found = item.get(keyword)
            return None if found is None or found == "" else found

        def numbers(sequence: str, keyword: str, value=value) -> tuple[float, ...] | None:
            found = value(sequence, keyword)
            return None if found is None else tuple(float(number) for number in found)

        def number(sequence: str, keyword: str, value=value) -> float | None:
            found = value(sequence, keyword)
            return None if found is None else float(found)

        yield {
            "position_mm": numbers("PlanePositionSequence", "ImagePositionPatient"),
            "orientation": numbers("PlaneOrientationSequence", "ImageOrientationPatient"),
            "pixel_spacing_mm": numbers("PixelMeasuresSequence", "PixelSpacing"),
            "slope": number("PixelValueTransformationSequence", "RescaleSlope"),
            "intercept": number("PixelValueTransformationSequence", "RescaleIntercept"),
            "rescale_type": str(value("PixelValueTransformationSequence", "RescaleType") or ""),
            "echo_time": number("MREchoSequence", "EffectiveEchoTime"),
            "b_value": number("MRDiffusionSequence", "DiffusionBValue"),
            "content": frame_content(header.content, value, frame),
            "temporal_position": number("FrameContentSequence", "TemporalPositionIndex"),
            **_contrast_tags(header, value, number),
        }


def _contrast_tags(header: SliceHeader, value: Callable, number: Callable) -> dict[str, Any]:
    """Return the tags other than echo time and b-value that distinguish the volumes of a file."""
    inversion_times = np.atleast_1d(value("MRModifierSequence", "InversionTimes") or [])
    frame_type = next((found for keyword in _FRAME_TYPES if (found := value(keyword, "FrameType"))), None)
    return {
        "inversion_time": float(inversion_times[0]) if inversion_times.size else header.inversion_time,
        "flip_angle": number("MRTimingAndRelatedParametersSequence", "FlipAngle"),
        "trigger_time": number("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "acquisition": number("FrameContentSequence", "FrameAcquisitionNumber"),
        "thickness_mm": number("PixelMeasuresSequence", "SliceThickness"),
        "stack": str(value("FrameContentSequence", "StackID") or ""),
        "image_type": tuple(map(str, frame_type)) if frame_type else header.image_type,
    }
