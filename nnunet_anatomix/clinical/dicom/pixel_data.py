"""Whether the pixel data of a DICOM file can be all there, and decoded, without decoding it."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

MAX_IMAGE_BYTES = 1 << 33
"""Of one file's pixels when unpacked: 8 GiB. More is a damaged or hostile header."""

DECODED = {  # by the GDCM inside SimpleITK
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


def pixel_problem(stream: BinaryIO, at: int | None, size_bytes: int, expected_bytes: int, syntax: UID) -> str:
    """Why the pixel data cannot be read, or nothing; fragments of compressed data are followed to the end.

    Args:
        stream: The file.
        at: Where its pixel data element begins, if it was found.
        size_bytes: Of the file.
        expected_bytes: Of the unpacked pixels, by the header.
    """
    if expected_bytes > MAX_IMAGE_BYTES:
        return f"header claims {expected_bytes / 1e9:.0f} GB of pixels"
    if syntax not in DECODED:
        # Damaged bytes could be anything, a name too.
        shown = syntax.name if re.fullmatch(r"1\.2\.840\.10008\.[0-9.]+", syntax) else "of a private kind"
        return f"transfer syntax {shown} cannot be decoded"
    if syntax == DeflatedExplicitVRLittleEndian:  # all of it was unpacked to find the header
        return ""
    if at is None:
        return "file is truncated, or has no pixel data"
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
