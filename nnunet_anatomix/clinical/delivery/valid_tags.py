"""Removal of invalid optional tags, which would make every object made from a source invalid."""

from __future__ import annotations

from collections.abc import Collection

from pydicom import DataElement, Dataset, config
from pydicom.valuerep import validate_value

_GROUPS = (0x0008, 0x0010, 0x0012)
"""Groups with the tags of patient, study and trial that DICOM objects of one study share."""


def drop_invalid_tags(header: Dataset, *, keep: Collection[str]) -> None:
    """Remove tags of patient and study whose values DICOM does not allow, and empty sequences.

    Args:
        header: Header of a source image, changed in place.
        keep: Keywords of tags to keep in any case. UIDs are kept, too.
    """
    with config.disable_value_validation():
        for tag in [tag for tag in header.keys() if tag.group in _GROUPS]:  # noqa: SIM118  # raw
            try:
                element = header[tag]
                is_kept = element.keyword in keep or element.VR == "UI" or _is_valid(element)
            except Exception:  # pydicom converts on access and raises many types
                is_kept = False
            if not is_kept:
                del header[tag]


def _is_valid(element: DataElement) -> bool:
    if element.VR == "SQ":
        return len(element.value) > 0
    for value in element.value if element.VM > 1 else [element.value]:
        # pydicom checks numbers only as the text that is stored.
        validate_value(element.VR, str(value) if element.VR in ("DS", "IS") else value, config.RAISE)
    return True
