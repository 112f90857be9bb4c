"""A prediction as DICOM SEG: linked to the source's slices, with names, codes and colours of its segments."""

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
_LO, _SH_LIST = 64, 1024
"""Characters that DICOM gives a long string, and algorithm parameters (short text)."""
_SERIES_NUMBER = 9000
"""Far from those that scanners give."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What segmented."""

    model: str = ""
    """Name of the dataset it was trained on."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Trainer, plans, configuration: what is known."""


def dicom_segmentation(
    source: SourceHeaders, labels: np.ndarray, structures: Structures, algorithm: Algorithm
) -> Segmentation:
    """Make a binary segmentation object, one segment a structure.

    Args:
        source: Headers of the source series; patient, study and frame of reference are theirs.
        labels: (Z, Y, X) checked labels; plane k lies on the source's slice k, pixel by pixel.
        structures: What the labels mean; segment n is the n-th. Overlapping regions overlap as
            segments.
        algorithm: Told in every segment.

    Returns:
        Frames without a voxel are left out, except in an empty prediction: that has one empty frame
            a segment, on the middle slice, so
        that "looked for, not found" arrives too.
    """
    only = None
    if not labels.any():
        middle = len(labels) // 2
        labels, only = (
            labels[middle : middle + 1],
            [highdicom.PlanePositionSequence("PATIENT", source.positions_mm[middle].tolist())],
        )
    elif source.frames:
        # In the order of the file; frames of other volumes in it stay empty, and are left out.
        ordered = np.zeros((int(source.images[0].NumberOfFrames), *labels.shape[1:]), dtype=labels.dtype)
        ordered[np.array(source.frames) - 1] = labels
        labels = ordered
    colours = structure_colours(len(structures.all))
    return Segmentation(
        source_images=source.images,
        plane_positions=only,
        pixel_array=_pixels(labels, structures),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _described(number, structure, colour, algorithm)
            for number, (structure, colour) in enumerate(zip(structures.all, colours, strict=True), 1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=(nnunet_anatomix.__version__, _text(f"nnunetv2 {version('nnunetv2')}")),  # type: ignore[arg-type]  # any number
        device_serial_number="1",
        series_description=_text(f"Segmentation {algorithm.model}".strip()),
        content_label="SEGMENTATION",
        content_description="Automatic segmentation, not checked by a person",
        content_creator_name=None,
        omit_empty_frames=bool(labels.any()),
        specific_character_set="ISO_IR 192",  # names of structures and patients may be of any language
    )


def _pixels(labels: np.ndarray, structures: Structures) -> np.ndarray:
    """Segment numbers (Z, Y, X), or, where regions overlap, one mask a segment (Z, Y, X, N)."""
    if structures.overlap:
        return np.stack([structures.mask(labels, structure) for structure in structures.all], axis=-1).astype(np.uint8)
    greatest = max(label for structure in structures.all for label in structure.labels)
    numbers = np.zeros(greatest + 1, dtype=np.uint8 if len(structures.all) < 256 else np.uint16)
    for number, structure in enumerate(structures.all, 1):
        numbers[list(structure.labels)] = number
    return numbers[labels]


def _described(number: int, structure: Structure, colour: np.ndarray, algorithm: Algorithm) -> SegmentDescription:
    from skimage.color import rgb2lab

    code = structure_code(structure.name)
    described = SegmentDescription(
        segment_number=number,
        segment_label=_text(structure.name),
        segmented_property_category=code.category,
        segmented_property_type=code.type,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=NAME,
            family=codes.DCM.ArtificialIntelligence,
            version=nnunet_anatomix.__version__,
            source=_text(algorithm.model) or None,
            parameters=_parameters(algorithm.parameters),
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


def _parameters(parameters: Mapping[str, str]) -> dict[str, str] | None:
    kept = {key: _text(value) for key, value in parameters.items() if value}
    return kept if kept and sum(len(key) + len(value) + 2 for key, value in kept.items()) <= _SH_LIST else None


def _text(value: str) -> str:
    """As much of a text as DICOM takes in a long string, without what would end it."""
    return "".join(" " if character == "\\" or not character.isprintable() else character for character in value)[
        :_LO
    ].strip()
