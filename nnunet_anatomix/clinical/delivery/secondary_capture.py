"""Overview picture as DICOM Secondary Capture, for archives that show no PNG."""

from __future__ import annotations

import numpy as np
from highdicom.sc import SCImage
from pydicom.uid import ExplicitVRLittleEndian

from nnunet_anatomix.clinical.delivery.dicom_objects import PICTURE_SERIES, clean_text, describe_instance
from nnunet_anatomix.clinical.delivery.source_headers import SourceHeaders


def build_secondary_capture(source: SourceHeaders, picture: np.ndarray, model: str) -> SCImage:
    """Build a Secondary Capture of a picture, in the study of the source.

    Args:
        source: Headers of the source series.
        picture: (H, W, 3) uint8, sRGB.
        model: Name of the model, for the description.
    """
    result = SCImage.from_ref_dataset(
        source.images[0],
        pixel_array=np.ascontiguousarray(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=clean_text(f"Overview {model}".strip()),
        **describe_instance(PICTURE_SERIES),
    )
    result.PatientOrientation = []  # one picture shows several planes
    result.Laterality = ""
    result.BurnedInAnnotation = "NO"  # the picture names the case, not the patient
    return result
