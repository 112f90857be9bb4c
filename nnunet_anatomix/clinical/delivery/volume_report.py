"""Structured report of a prediction: the volume of each structure (DICOM PS3.16, TID 1500)."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom
from highdicom.seg import Segmentation
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.delivery.dicom_objects import NAME, REPORT_SERIES, clean_text, describe_instance
from nnunet_anatomix.clinical.delivery.source_headers import SourceHeaders
from nnunet_anatomix.clinical.delivery.structure_codes import structure_code
from nnunet_anatomix.clinical.delivery.structures import Structures
from pretraining.common.versions import VERSION

_MILLILITRE = Code("mL", "UCUM", "milliliter")
_PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MR unspecified body region"),
    "PT": Code("44139-4", "LN", "PET unspecified body region"),
    "NM": Code("49118-3", "LN", "NM unspecified body region"),
}
"""Modality → procedure of context group 100."""
_ANY_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")


def build_volume_report(
    source: SourceHeaders, segmentation: Segmentation, structures: Structures, volumes_ml: Sequence[float], model: str
) -> Comprehensive3DSR:
    """Build a measurement report with one volume per structure, zero for those not found.

    Args:
        source: Headers of the source series.
        segmentation: DICOM SEG that the volumes are measured on; segment n is the n-th structure.
        structures: Names and labels.
        volumes_ml: Volume of each structure, ml.
        model: Name of the model.
    """
    image = source.images[0]
    algorithm = AlgorithmIdentification(name=NAME, version=VERSION, parameters=[clean_text(f"model {model}")])
    series = SourceSeriesForSegmentation(referenced_series_instance_uid=image.SeriesInstanceUID)
    groups = []
    for number, (structure, volume_ml) in enumerate(zip(structures.all, volumes_ml, strict=True), 1):
        code = structure_code(structure.name)
        # The site of an abnormality is its organ; an organ is its own site, which carries the side.
        site = code.region or (code.type if code.side else None)
        groups.append(
            VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(uid=highdicom.UID(), identifier=clean_text(structure.name)),
                referenced_segment=ReferencedSegment(
                    sop_class_uid=segmentation.SOPClassUID,
                    sop_instance_uid=segmentation.SOPInstanceUID,
                    segment_number=number,
                    source_series=series,
                ),
                finding_category=code.category,
                finding_type=code.type,
                finding_sites=[FindingSite(site, laterality=code.side)] if site else None,
                algorithm_id=algorithm,
                measurements=[Measurement(codes.SCT.Volume, value=float(f"{volume_ml:.6g}"), unit=_MILLILITRE)],
            )
        )
    observer = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[NAME, VERSION]),  # the same in all reports of a version
        name=NAME,
        manufacturer_name=NAME,
        model_name=NAME,
    )
    report = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=observer
            )
        ),
        procedure_reported=CodedConcept.from_code(_PROCEDURES.get(image.get("Modality", ""), _ANY_PROCEDURE)),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return Comprehensive3DSR(
        # Headers that represent frames are not stored instances, so they are not evidence.
        evidence=[segmentation] if source.references else [segmentation, *source.images],
        content=report,
        is_complete=True,
        series_description=clean_text(f"Volumes {model}".strip()),
        **describe_instance(REPORT_SERIES),
    )
