"""Parsing of DICOM headers up to the pixel data: long, deflated and damaged ones."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from pydicom import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, UID_dictionary

from nnunet_anatomix.clinical.dicom.deflated import inflate_start

HEAD_BYTES = 1 << 16
"""Bytes read first. Most headers are shorter; parsing memory is twice as fast as parsing a file."""
DAMAGED = "damaged header: the series of the file is unknown"
NOT_AN_IMAGE = "not an image"
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()
_META_BYTES = 1 << 12
"""Bytes searched for the transfer syntax; the file meta information is shorter."""
_SOP_CLASS = 0x00080016
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}


def is_other_object(sop_class: str) -> bool:
    """Return whether a SOP class is known and not that of an image, such as a report or a plan."""
    return sop_class in UID_dictionary and "Image" not in UID(sop_class).name


class ParsedHeader(NamedTuple):
    """Parsed header."""

    dataset: Dataset
    data_at: int | None
    """Offset of the pixel data element, in the inflated data set of a deflated file; None if the
    parser did not reach it.
    """
    deflated_at: int | None = None
    """Offset of the deflated data set; None if the file is not deflated."""


def parse_header(stream: BinaryIO, head: bytes, size_bytes: int, tags: list) -> ParsedHeader:
    """Parse the head of a file; parse the whole file if its header is longer.

    Args:
        stream: Open file.
        head: First :data:`HEAD_BYTES` of the file.
        size_bytes: Size of the file.
        tags: Tags to keep.

    Raises:
        Exception: Of many types, if the header is damaged.
    """
    with_preamble = head[128:132] == b"DICM"
    if _DEFLATED in head[:_META_BYTES]:
        start = io.BytesIO(head)
        start.seek(132 if with_preamble else 0)
        meta = FileMetaDataset(read_dataset(start, False, True, stop_when=lambda tag, *_: tag >> 16 != 2))
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _parse_deflated(stream, start.tell(), meta, tags)
    if len(head) < size_bytes:
        with suppress(Exception):  # a sequence of undefined length crosses the end of the head
            dataset, data_at = _parse(io.BytesIO(head), with_preamble, tags)
            if data_at is not None:
                return ParsedHeader(dataset, data_at)
        stream.seek(0)
        return ParsedHeader(*_parse(stream, with_preamble, tags))
    return ParsedHeader(*_parse(io.BytesIO(head), with_preamble, tags))


def _parse_deflated(stream: BinaryIO, at: int, meta: FileMetaDataset, tags: list) -> ParsedHeader:
    """Parse the first inflated bytes of a data set; parse more if its header is longer."""
    size_bytes = HEAD_BYTES
    while True:
        inflated = inflate_start(stream, at, size_bytes)
        whole = len(inflated) < size_bytes
        data_at = None
        try:
            start = io.BytesIO(inflated)
            dataset = read_dataset(start, False, True, stop_when=_is_pixel_data, specific_tags=tags)
            stopped_at = start.tell()
            data_at = stopped_at if start.read(4) == b"\xe0\x7f\x10\x00" else None
        except Exception:
            if whole:
                raise
        if whole or data_at is not None:
            dataset.file_meta = meta
            return ParsedHeader(dataset, data_at, at)
        size_bytes *= 8


def _is_pixel_data(tag: int, *_: object) -> bool:
    return tag in _PIXEL_TAGS


def describe_damage(head: bytes) -> str:
    """Return :data:`DAMAGED`, or another reason if the file is certainly not an image."""
    try:
        start = read_partial(io.BytesIO(head), lambda tag, *_: tag > _SOP_CLASS, force=True)
        sop_class = str(start.get("SOPClassUID") or start.file_meta.get("MediaStorageSOPClassUID") or "")
    except Exception:  # pydicom raises many types for damaged bytes
        return DAMAGED
    return "damaged header of an object that is not an image" if is_other_object(sop_class) else DAMAGED


def _parse(stream: BinaryIO, with_preamble: bool, tags: list) -> tuple[Dataset, int | None]:
    """Return the dataset and, if the parser reached it, the offset of its pixel data element."""
    # As dcmread, which converts every tag to an object first.
    dataset = read_partial(stream, _is_pixel_data, force=not with_preamble, specific_tags=tags)
    at = stream.tell()
    reached = stream.read(4) in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
    return dataset, at if reached else None
