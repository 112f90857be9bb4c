"""DICOM SEG of a prediction, with references to the source slices and coded segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

import nnunet_anatomix
from nnunet_anatomix.clinical.delivery.source_headers import SourceHeaders
from nnunet_anatomix.clinical.delivery.structure_codes import structure_code
from nnunet_anatomix.clinical.delivery.structure_colours import structure_colours
from nnunet_anatomix.clinical.delivery.structures import Structure, Structures

NAME = "nnunet-anatomix"
_MAX_TEXT, _MAX_PARAMETERS = 64, 1024
"""Largest number of characters of a DICOM long string (LO) and of the algorithm parameters."""
_SERIES_NUMBER = 9000
"""Series number, higher than those that scanners use."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Description of the model that made the prediction."""

    model: str = ""
    """Name of the training dataset."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Trainer, plans and configuration, as far as they are known."""


def build_segmentation(
    source: SourceHeaders, labels: np.ndarray, structures: Structures, algorithm: Algorithm
) -> Segmentation:
    """Build a binary segmentation object with one segment per structure.

    Args:
        source: Headers of the source series; they give patient, study and frame of reference.
        labels: (Z, Y, X) checked labels; plane k has the pixels of slice k of the source.
        structures: Names and labels; segment n is the n-th structure. Overlapping regions become
            overlapping segments.
        algorithm: Description of the model, written into every segment.

    Returns:
        Segmentation without empty frames. An empty prediction has one empty frame per segment, on
            the middle slice, which states that the structures were not found.
    """
    plane_positions = None
    if not labels.any():
        middle = len(labels) // 2
        labels = labels[middle : middle + 1]
        plane_positions = [highdicom.PlanePositionSequence("PATIENT", source.positions_mm[middle].tolist())]
    elif source.frames:
        # highdicom expects the order of the file and omits frames that stay empty.
        ordered = np.zeros((int(source.images[0].NumberOfFrames), *labels.shape[1:]), dtype=labels.dtype)
        ordered[np.array(source.frames) - 1] = labels
        labels = ordered
    colours = structure_colours(len(structures.all))
    return Segmentation(
        source_images=source.images,
        plane_positions=plane_positions,
        pixel_array=_number_segments(labels, structures),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe_segment(number, structure, colour, algorithm)
            for number, (structure, colour) in enumerate(zip(structures.all, colours, strict=True), 1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=(nnunet_anatomix.__version__, _clean_text(f"nnunetv2 {version('nnunetv2')}")),  # type: ignore[arg-type]  # any number
        device_serial_number="1",
        series_description=_clean_text(f"Segmentation {algorithm.model}".strip()),
        content_label="SEGMENTATION",
        content_description="Automatic segmentation, not checked by a person",
        content_creator_name=None,
        omit_empty_frames=bool(labels.any()),
        specific_character_set="ISO_IR 192",  # UTF-8
    )


def _number_segments(labels: np.ndarray, structures: Structures) -> np.ndarray:
    """Return segment numbers (Z, Y, X); if regions overlap, masks per segment (Z, Y, X, N)."""
    if structures.overlap:
        return np.stack([structures.mask(labels, structure) for structure in structures.all], axis=-1).astype(np.uint8)
    greatest = max(label for structure in structures.all for label in structure.labels)
    numbers = np.zeros(greatest + 1, dtype=np.uint8 if len(structures.all) < 256 else np.uint16)
    for number, structure in enumerate(structures.all, 1):
        numbers[list(structure.labels)] = number
    return numbers[labels]


def _describe_segment(
    number: int, structure: Structure, colour: np.ndarray, algorithm: Algorithm
) -> SegmentDescription:
    from skimage.color import rgb2lab

    code = structure_code(structure.name)
    described = SegmentDescription(
        segment_number=number,
        segment_label=_clean_text(structure.name),
        segmented_property_category=code.category,
        segmented_property_type=code.type,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=NAME,
            family=codes.DCM.ArtificialIntelligence,
            version=nnunet_anatomix.__version__,
            source=_clean_text(algorithm.model) or None,
            parameters=_clean_parameters(algorithm.parameters),
        ),
        anatomic_regions=[code.region] if code.region else None,
        display_color=CIELabColor(*np.clip(rgb2lab(colour), (0, -128, -128), (100, 127, 127))),
    )
    if code.side:
        modified = (
            described.AnatomicRegionSequence[0] if code.region else described.SegmentedPropertyTypeCodeSequence[0]
        )
        keyword = "AnatomicRegionModifierSequence" if code.region else "SegmentedPropertyTypeModifierCodeSequence"
        setattr(modified, keyword, [CodedConcept.from_code(code.side)])
    return described


def _clean_parameters(parameters: Mapping[str, str]) -> dict[str, str] | None:
    kept = {key: _clean_text(value) for key, value in parameters.items() if value}
    return kept if kept and sum(len(key) + len(value) + 2 for key, value in kept.items()) <= _MAX_PARAMETERS else None


def _clean_text(value: str) -> str:
    """Return a valid DICOM long string: at most 64 printable characters, no backslash."""
    return "".join(" " if character == "\\" or not character.isprintable() else character for character in value)[
        :_MAX_TEXT
    ].strip()
