"""Addresses of other systems, and the file in which a received object is stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pretraining.common.errors import InputError


@dataclass(frozen=True)
class DimseAddress:
    """Application entity of DIMSE: ``AET@HOST:PORT``."""

    title: str
    """AE title, 1 to 16 characters."""
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def parse_dimse_address(text: str, flag: str) -> DimseAddress:
    """Read ``AET@HOST:PORT``.

    Args:
        text: Text to read; an IPv6 host stands in brackets.
        flag: Name of the flag for messages.

    Raises:
        InputError: For another syntax.
    """
    match = re.fullmatch(r"([\x21-\x3f\x41-\x5b\x5d-\x7e]{1,16})@(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})", text)
    if not match or not 0 < int(match[3]) < 1 << 16:
        raise InputError(f"{flag}: expected AET@HOST:PORT such as ARCHIVE@10.0.0.7:104, found '{text}'")
    return DimseAddress(match[1], match[2].strip("[]"), int(match[3]))


def is_url(text: str) -> bool:
    """Return whether a text names a DICOMweb service and not an application entity."""
    return text.lower().startswith(("http://", "https://"))


def check_url(text: str, flag: str) -> str:
    """Return the root URL of a DICOMweb service without a trailing slash.

    Args:
        text: URL such as ``https://archive/dicom-web``.
        flag: Name of the flag for messages.

    Raises:
        InputError: If it is not such a URL, or contains a password, which other users could see.
    """
    parts = urlsplit(text)
    if not is_url(text) or not parts.hostname:
        raise InputError(f"{flag}: expected a URL such as https://archive/dicom-web, found '{text}'")
    if parts.username or parts.password:
        raise InputError(f"{flag}: the URL contains a password; put it into ~/.netrc, or a token into DICOMWEB_TOKEN")
    return text.rstrip("/")


def require_package(module: str, package: str, flag: str) -> None:
    """Check that an optional package is installed.

    Raises:
        InputError: If it is not; the message says how to install it.
    """
    if find_spec(module) is None:
        raise InputError(f"{flag} needs {package}, which is not installed; run: pip install {package}")


def is_uid(text: str) -> bool:
    """Return whether a text is a DICOM UID, and so safe as the name of a file."""
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


def instance_file(root: Path, study_uid: str, instance_uid: str) -> Path:
    """Return the path of a received object: ``ROOT/STUDY/INSTANCE.dcm``.

    Raises:
        InputError: If one of the texts, which another system has sent, is not a UID.
    """
    if not is_uid(study_uid) or not is_uid(instance_uid):
        raise InputError("a received object has no valid StudyInstanceUID and SOPInstanceUID")
    return root / study_uid / f"{instance_uid}.dcm"
