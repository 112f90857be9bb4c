"""Originality of images: what ImageType and the compression say, and which CT is taken anyway.

Archives that compress with loss, deidentify or resend a CT often change the first two values of its
ImageType, although the slices are those of the scanner.
"""

from __future__ import annotations

from nnunet_anatomix.clinical.intake.series import LOSSY, Series
from nnunet_anatomix.clinical.phrases import redact_free_text

_ACCEPTED = (["DERIVED", "PRIMARY", "AXIAL"], ["ORIGINAL", "SECONDARY", "AXIAL"])
"""First values of the ImageType of a CT that may be the scanner's, although it is not original."""


def shown_image_type(series: Series) -> str:
    """Return the first values of ImageType, without free text."""
    return "\\".join(redact_free_text(value.upper()) for value in series.image_type[:3])


def is_changed_ct(series: Series) -> bool:
    """Return whether a CT is not marked as original, but axial as the scanner made it."""
    return series.modality == "CT" and [value.upper() for value in series.image_type[:3]] in _ACCEPTED


def find_change(series: Series) -> str:
    """Return why the images of a series are not exactly the scanner's, or an empty text."""
    if is_changed_ct(series):
        return f"not an original image (ImageType {shown_image_type(series)})"
    return LOSSY if LOSSY in series.notes else ""
