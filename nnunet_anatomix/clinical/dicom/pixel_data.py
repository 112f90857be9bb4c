"""Check that the pixel data of a DICOM file is complete and decodable, without decoding it."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

MAX_IMAGE_BYTES = 1 << 33
"""Largest size of one file's decoded pixels: 8 GiB. More means a damaged or hostile header."""

DECODABLE = {  # by the GDCM that SimpleITK contains
    "1.2.840.10008.1.2": "implicit little endian",
    "1.2.840.10008.1.2.1": "explicit little endian",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.2": "explicit big endian",
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}
"""Transfer syntax UID → name."""


def find_pixel_problem(stream: BinaryIO, at: int | None, size_bytes: int, expected_bytes: int, syntax: UID) -> str:
    """Return why the pixel data cannot be read, or an empty text.

    Fragments of compressed data are followed to the last one.

    Args:
        stream: Open file.
        at: Offset of the pixel data element, bytes; None if it was not found.
        size_bytes: Size of the file.
        expected_bytes: Size of the decoded pixels according to the header.
        syntax: Transfer syntax of the file.
    """
    if expected_bytes > MAX_IMAGE_BYTES:
        return f"header claims {expected_bytes / 1e9:.0f} GB of pixels"
    if syntax not in DECODABLE:
        # Damaged bytes may hold anything, for example a name.
        shown = syntax.name if re.fullmatch(r"1\.2\.840\.10008\.[0-9.]+", syntax) else "(private)"
        return f"transfer syntax {shown} cannot be decoded"
    if at is None:
        return "file is truncated or has no pixel data"
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    stream.seek(at + 4)
    element = stream.read(8)
    if len(element) < 8:
        return "file is truncated"
    implicit = syntax == ImplicitVRLittleEndian
    (length,) = struct.unpack(f"{order}I", element[:4] if implicit else element[4:])
    begins = at + (8 if implicit else 12)
    if length != 0xFFFFFFFF:
        if syntax.is_compressed:
            return "compressed pixel data is not in fragments"
        if begins + min(length, expected_bytes) > size_bytes:
            return "file is truncated"
        return "fewer pixels than the header says" if length < expected_bytes else ""
    if not syntax.is_compressed:
        return "pixel data has no length"
    while True:
        stream.seek(begins)
        item = stream.read(8)
        if len(item) < 8:
            return "file is truncated"
        if item[:4] == b"\xfe\xff\xdd\xe0":
            return ""
        (length,) = struct.unpack("<I", item[4:])
        if item[:4] != b"\xfe\xff\x00\xe0" or length == 0xFFFFFFFF:
            return "pixel data is damaged"
        begins += 8 + length
