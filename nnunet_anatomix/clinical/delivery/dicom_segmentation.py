"""DICOM SEG of a prediction, with references to the source slices and coded segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from nnunet_anatomix.clinical.delivery.dicom_objects import NAME, SEGMENTATION_SERIES, clean_text, describe_instance
from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.delivery.source_headers import SourceHeaders
from nnunet_anatomix.clinical.delivery.structure_codes import structure_code
from nnunet_anatomix.clinical.delivery.structure_colours import structure_colours
from nnunet_anatomix.clinical.delivery.structures import Structure, Structures
from pretraining.common.versions import VERSION

_MAX_PARAMETERS = 1024
"""Largest number of characters of the algorithm parameters."""
_EVEN_MM = 0.01
"""Largest difference between the distances of evenly spaced slices, mm."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Description of the model that made the prediction."""

    model: str = ""
    """Name of the training dataset."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Trainer, plans and configuration, as far as they are known."""


def build_segmentation(
    source: SourceHeaders,
    labels: np.ndarray,
    structures: Structures,
    algorithm: Algorithm,
    options: DicomOptions | None = None,
) -> Segmentation:
    """Build a segmentation object with one segment per structure.

    Args:
        source: Headers of the source series; they give patient, study and frame of reference.
        labels: (Z, Y, X) checked labels; plane k has the pixels of slice k of the source.
        structures: Names and labels; segment n is the n-th structure. Overlapping regions become
            overlapping segments.
        algorithm: Description of the model, written into every segment.
        options: Type and coding. Default: binary, not compressed, without empty frames.

    Returns:
        Segmentation without empty frames, unless the options keep them. An empty prediction has one
            empty frame per segment, on the middle slice, which states that the structures were not
            found.
    """
    options = options or DicomOptions()
    is_labelmap = options.segmentation_type == "labelmap"
    plane_positions = None
    if not labels.any() and not options.keep_empty_frames:
        middle = len(labels) // 2
        labels = labels[middle : middle + 1]
        plane_positions = [highdicom.PlanePositionSequence("PATIENT", source.positions_mm[middle].tolist())]
    elif source.frames:
        # highdicom expects the order of the file and omits frames that stay empty.
        ordered = np.zeros((int(source.images[0].NumberOfFrames), *labels.shape[1:]), dtype=labels.dtype)
        ordered[np.array(source.frames) - 1] = labels
        labels = ordered
    colours = structure_colours(len(structures.all))
    segmentation = Segmentation(
        source_images=source.images,
        plane_positions=plane_positions,
        pixel_array=_number_segments(labels, structures),
        segmentation_type=highdicom.seg.SegmentationTypeValues[options.segmentation_type.upper()],
        transfer_syntax_uid=RLELossless if is_labelmap and options.compress else ExplicitVRLittleEndian,
        segment_descriptions=[
            _describe_segment(number, structure, colour, algorithm)
            for number, (structure, colour) in enumerate(zip(structures.all, colours, strict=True), 1)
        ],
        **describe_instance(SEGMENTATION_SERIES),
        series_description=clean_text(f"Segmentation {algorithm.model}".strip()),
        content_label="SEGMENTATION",
        content_description="Automatic segmentation, not checked by a person",
        content_creator_name=None,
        omit_empty_frames=bool(labels.any()) and not options.keep_empty_frames,
    )
    _correct_slice_spacing(segmentation, source)
    if options.compress and not is_labelmap:
        # Frames of single bits have no other lossless coding that readers know.
        segmentation.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return segmentation


def _correct_slice_spacing(segmentation: Segmentation, source: SourceHeaders) -> None:
    """Set the distance of slices by their positions: scanners also write 0, or a negative one."""
    (measures,) = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    if "SpacingBetweenSlices" not in measures:
        return
    normal = np.cross(*source.placements[0].orientation)
    gaps_mm = np.abs(np.diff([place.position_mm @ normal for place in source.placements]))
    if len(gaps_mm) and np.ptp(gaps_mm) <= _EVEN_MM and gaps_mm.mean() > 0:
        measures.SpacingBetweenSlices = float(f"{gaps_mm.mean():.6g}")
    else:
        del measures.SpacingBetweenSlices


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
        segment_label=clean_text(structure.name),
        segmented_property_category=code.category,
        segmented_property_type=code.type,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=NAME,
            family=codes.DCM.ArtificialIntelligence,
            version=VERSION,
            source=clean_text(algorithm.model) or None,
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
    kept = {key: clean_text(value) for key, value in parameters.items() if value}
    return kept if kept and sum(len(key) + len(value) + 2 for key, value in kept.items()) <= _MAX_PARAMETERS else None
