"""RT Structure Set of a prediction: outlines of every structure on the slices of the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
from highdicom.base import SOPClass
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from nnunet_anatomix.clinical.delivery.dicom_objects import (
    CONTOUR_SERIES,
    NAME,
    clean_text,
    describe_instance,
    describe_patient,
)
from nnunet_anatomix.clinical.delivery.slice_contours import trace_outlines
from nnunet_anatomix.clinical.delivery.source_headers import SlicePlacement, SourceHeaders
from nnunet_anatomix.clinical.delivery.structure_codes import structure_code
from nnunet_anatomix.clinical.delivery.structure_colours import structure_colours
from nnunet_anatomix.clinical.delivery.structures import Structure, Structures

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management: retired, but the class by which structure sets refer to a study."""
_CONTOUR_DATA = Tag("ContourData")
_SHORT_TEXT = 16
"""Largest number of characters of a DICOM short string (SH)."""


def build_structure_set(source: SourceHeaders, labels: np.ndarray, structures: Structures, model: str) -> SOPClass:
    """Build an RT Structure Set with one region of interest per structure.

    Args:
        source: Headers of the source series; outlines lie on its slices, whatever their direction,
            shift and distance.
        labels: (Z, Y, X) checked labels; plane k has the pixels of slice k of the source.
        structures: Names and labels; region n is the n-th structure. One that is absent has no
            outlines.
        model: Name of the model, for the description.

    Returns:
        Structure set in implicit VR, since the explicit one limits an outline to 64 KB.
    """
    image = source.images[0]
    result = SOPClass(
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        transfer_syntax_uid=ImplicitVRLittleEndian,
        series_description=clean_text(f"Contours {model}".strip()),
        **describe_instance(CONTOUR_SERIES),
        **describe_patient(image),
    )
    result.copy_patient_and_study_information(image)
    now = datetime.now()
    result.OperatorsName = ""
    result.StructureSetLabel = NAME[:_SHORT_TEXT]
    result.StructureSetDescription = "Automatic segmentation, not checked by a person"
    result.StructureSetDate, result.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    result.FrameOfReferenceUID = image.FrameOfReferenceUID
    result.PositionReferenceIndicator = image.get("PositionReferenceIndicator") or ""
    references = _refer_to_slices(source)
    result.ReferencedFrameOfReferenceSequence = [_refer_to_source(source, references)]
    result.StructureSetROISequence, result.ROIContourSequence, result.RTROIObservationsSequence = [], [], []
    colours = structure_colours(len(structures.all))
    for number, (structure, colour) in enumerate(zip(structures.all, colours, strict=True), 1):
        mask = structures.mask(labels, structure)
        contours = _trace_slices(mask, source.placements, references)
        result.StructureSetROISequence.append(_describe_region(number, structure, image))
        result.ROIContourSequence.append(_collect_contours(number, colour, contours))
        result.RTROIObservationsSequence.append(_describe_observation(number, structure))
    result.ApprovalStatus = "UNAPPROVED"
    return result


def _refer_to_source(source: SourceHeaders, references: Sequence[Dataset]) -> Dataset:
    image = source.images[0]
    series = Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    files = {one.ReferencedSOPInstanceUID: one.ReferencedSOPClassUID for one in references}
    series.ContourImageSequence = [_make_reference(sop_class, uid) for uid, sop_class in files.items()]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = image.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame_of_reference = Dataset()
    frame_of_reference.FrameOfReferenceUID = image.FrameOfReferenceUID
    frame_of_reference.RTReferencedStudySequence = [study]
    return frame_of_reference


def _make_reference(sop_class: str, sop_instance: str, frame: int | None = None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class
    reference.ReferencedSOPInstanceUID = sop_instance
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    return reference


def _refer_to_slices(source: SourceHeaders) -> list[Dataset]:
    """Return a reference to the file or frame of each slice."""
    if source.frames:
        image = source.images[0]
        return [_make_reference(image.SOPClassUID, image.SOPInstanceUID, frame) for frame in source.frames]
    stood_for = (source.references.get(str(header.SOPInstanceUID)) for header in source.images)
    return [
        _make_reference(header.SOPClassUID, header.SOPInstanceUID) if frame is None else _make_reference(*frame)
        for header, frame in zip(source.images, stood_for, strict=True)
    ]


def _trace_slices(
    mask: np.ndarray, placements: Sequence[SlicePlacement], references: Sequence[Dataset]
) -> Iterator[Dataset]:
    """Yield the outlines of a mask (Z, Y, X), slice by slice."""
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        placement = placements[k]
        # Steps from row to row and from column to column.
        steps_mm = placement.orientation[::-1] * np.reshape(placement.spacing_mm, (2, 1))
        for outline in trace_outlines(mask[k]):
            yield _make_contour(placement.position_mm + outline @ steps_mm, references[k])


def _make_contour(points_mm: np.ndarray, reference: Dataset) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = [reference]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points_mm)
    # Encoded at once: pydicom would keep and check an object per number.
    text = "\\".join(f"{mm:.4f}".rstrip("0").rstrip(".") for mm in points_mm.ravel().tolist()).encode("ascii")
    text += b" " * (len(text) % 2)
    contour[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, True, True)
    return contour


def _describe_region(number: int, structure: Structure, image: Dataset) -> Dataset:
    region = Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
    region.ROIName = clean_text(structure.name)
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    return region


def _collect_contours(number: int, colour: np.ndarray, contours: Iterator[Dataset]) -> Dataset:
    collected = Dataset()
    collected.ReferencedROINumber = number
    collected.ROIDisplayColor = np.rint(255 * colour).astype(int).tolist()
    if found := list(contours):
        collected.ContourSequence = found
    return collected


def _describe_observation(number: int, structure: Structure) -> Dataset:
    code = structure_code(structure.name)
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.ROIObservationLabel = clean_text(structure.name, _SHORT_TEXT)
    observation.RTROIInterpretedType = "ORGAN" if code.category == codes.SCT.AnatomicalStructure else ""
    observation.ROIInterpreter = ""
    if code.type != codes.SCT.Tissue:  # the unspecific code says less than the name
        observation.RTROIIdentificationCodeSequence = [CodedConcept.from_code(code.type)]
    return observation
