"""Enhanced multi-frame DICOM: one file holds all slices of a series, each with its own position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from nnunet_anatomix.clinical.dicom.content import Content
from nnunet_anatomix.clinical.dicom.frame_content import AGENTS, frame_content, read_agents
from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from pretraining.imaging.rejection import Unusable

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
            replace(header, frame=number, **tags) for number, tags in enumerate(_frame_tags(dataset, content), 1)
        ]
    except (Unusable, OSError):
        raise
    except Exception:  # pydicom's conversions raise many types
        raise Unusable("multi-frame file with damaged tags") from None
    if len(headers) != header.frames:
        raise Unusable(f"multi-frame file of {header.frames} frames, of which {len(headers)} are described")
    return headers


def _frame_tags(dataset: Dataset, content: Content) -> Iterator[dict[str, Any]]:
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
            "content": frame_content(content, value, frame),
            "temporal_position": number("FrameContentSequence", "TemporalPositionIndex"),
        }
