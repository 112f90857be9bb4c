"""Parts that all DICOM objects of a delivery share: equipment, patient, study, and clean texts."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import highdicom
from pydicom import Dataset

from pretraining.common.versions import VERSION

NAME = "nnunet-anatomix"
SEGMENTATION_SERIES, CONTOUR_SERIES, REPORT_SERIES, PICTURE_SERIES, REGISTRATION_SERIES = range(9000, 9005)
"""Series numbers, higher than those that scanners use."""
_MAX_TEXT = 64
"""Largest number of characters of a DICOM long string (LO)."""


def describe_instance(series_number: int) -> dict[str, Any]:
    """Return the arguments of highdicom's objects that describe a new series with one instance.

    Args:
        series_number: One of the series numbers of this module.
    """
    return {
        "series_instance_uid": highdicom.UID(),
        "series_number": series_number,
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": NAME,
        "manufacturer_model_name": NAME,
        "software_versions": [VERSION, clean_text(f"nnunetv2 {version('nnunetv2')}")],
        "device_serial_number": "1",
        "specific_character_set": "ISO_IR 192",  # UTF-8
    }


def describe_patient(image: Dataset) -> dict[str, Any]:
    """Return the arguments of highdicom's base class that name patient and study of a source image.

    Args:
        image: Header of the source, in which all tags that DICOM requires exist.
    """
    return {
        "study_instance_uid": image.StudyInstanceUID,
        "patient_id": image.PatientID,
        "patient_name": image.PatientName,
        "patient_birth_date": image.PatientBirthDate,
        "patient_sex": image.PatientSex,
        "accession_number": image.AccessionNumber,
        "study_id": image.StudyID,
        "study_date": image.StudyDate,
        "study_time": image.StudyTime,
        "referring_physician_name": image.ReferringPhysicianName,
    }


def clean_text(value: str, length: int = _MAX_TEXT) -> str:
    """Return a valid DICOM string: printable characters without backslash.

    Args:
        value: Any text.
        length: Largest number of characters. Default: that of a long string (LO).
    """
    return "".join(" " if character == "\\" or not character.isprintable() else character for character in value)[
        :length
    ].strip()
