"""File format of a template bank: packed masks, then an index of fixed-width rows, then a footer.

The index is small (48 bytes per template, and each name once) and is read completely; the masks are
memory-mapped and read one by one. The footer has a digest of the index, and the index a checksum of
each mask. So damage is detected before a mask is used, and opening a bank does not read all masks.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.bank.bank_index import ROW, BankIndex, IndexBuilder, TemplateEntry
from pretraining.bank.packing import packed_length
from pretraining.common.atomic import atomic_write
from pretraining.common.errors import InputError
from pretraining.imaging.limits import LARGEST_VOXELS, check_spacing

FAMILY = b"anatomix-bank-"
MAGIC = FAMILY + b"3\n"
FOOTER = struct.Struct("<QQQ32s16s")
"""Start of the index, length of its JSON part, number of rows after that, SHA-256 of both, and the
magic bytes again: a truncated file has no footer.
"""
RESIDENT_LIMIT = 2**26
"""Bytes of masks after which the pages read are released, so that the memory of a process does not
appear to grow to the size of the bank.
"""


class MappedMasks:
    """Memory-mapped masks of a bank file.

    ``masks[start:stop]`` copies that part of their (bytes,) uint8; nothing else is read.
    """

    def __init__(self, path: Path, length: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, dtype=np.uint8, count=length, offset=len(MAGIC))
        self._read_since = 0

    def __getitem__(self, part: slice) -> np.ndarray:
        copy = self._bytes[part].copy()
        self._read_since += len(copy)
        if self._read_since > RESIDENT_LIMIT and hasattr(mmap, "MADV_DONTNEED"):
            # The pages stay in the system's cache, so that reading them again is as fast, but they
            # no longer count as memory of this process.
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read_since = 0
        return copy


def write_bank(
    path: Path,
    templates: Iterable[tuple[TemplateEntry, np.ndarray]],
    *,
    spacing_mm: float,
    notes: Mapping[str, Any] | None = None,
) -> BankIndex:
    """Write a bank file atomically.

    Args:
        path: File to write.
        templates: Descriptions and packed bits; one at a time is in memory.
        spacing_mm: Voxel size of all masks, mm.
        notes: Additional information, JSON types. Default: none.

    Returns:
        The index that was written.
    """
    with atomic_write(path) as unfinished:
        with unfinished.open("wb") as file:
            file.write(MAGIC)
            builder = IndexBuilder()
            for entry, bits in templates:
                builder.add(entry, bits)
                file.write(bits.tobytes())
            index = builder.build(spacing_mm=spacing_mm, notes=notes)
            start = file.tell()
            head, rows = index.encode()
            file.write(head + rows + FOOTER.pack(start, len(head), len(index.rows), bytes.fromhex(index.sha256), MAGIC))
        return index


def read_bank(path: Path) -> tuple[BankIndex, MappedMasks]:
    """Read the index of a bank file and map its masks.

    Raises:
        InputError: If the file does not exist, is not a bank, has another format version, is
            truncated, or has a damaged index.
    """
    if not path.is_file():
        raise InputError(
            f"no template bank at {path}; make one with `anatomix-pretrain templates --source DIR --out {path}`"
        )
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC and magic.startswith(FAMILY):
            version = magic[len(FAMILY) :].strip().decode(errors="replace")
            raise InputError(
                f"{path} is a template bank of format {version}, this software reads format "
                f"{MAGIC[len(FAMILY) :].strip().decode()}; build it again with `anatomix-pretrain templates`"
            )
        if magic != MAGIC:
            raise InputError(f"{path} is not a template bank; expected a file from `anatomix-pretrain templates`")
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - FOOTER.size, 0))
        footer = file.read()
        start, head_length, count, digest, magic = (
            FOOTER.unpack(footer) if len(footer) == FOOTER.size else (0, 0, 0, b"", b"")
        )
        if magic != MAGIC or start + head_length + count * ROW.itemsize + FOOTER.size != size:
            raise InputError(
                f"{path} is truncated or damaged ({size} bytes without a valid end); copy it again or build it again"
            )
        file.seek(start)
        content = file.read(head_length + count * ROW.itemsize)
    if hashlib.sha256(content).digest() != digest:
        raise InputError(f"{path} is damaged: its index does not match its checksum; copy it again or build it again")
    rows = np.frombuffer(content, dtype=ROW, offset=head_length)
    try:
        head = json.loads(content[:head_length])
        index = BankIndex(
            spacing_mm=head["spacing_mm"], names=tuple(head["names"]), rows=rows, notes=head.get("notes", {})
        )
        _check_index(index, start - len(MAGIC))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a valid template bank ({error!r}); build it again with `anatomix-pretrain templates`"
        ) from None
    return index, MappedMasks(path, start - len(MAGIC))


def _check_index(index: BankIndex, mask_bytes: int) -> None:
    """Check sizes, names and spacing of an index whose digest is correct.

    Raises:
        ValueError: If this software cannot have written it.
    """
    if (
        isinstance(index.spacing_mm, bool)
        or not isinstance(index.spacing_mm, (int, float))
        or not isinstance(index.notes, dict)
    ):
        raise ValueError(
            f"expected a spacing and notes, found {type(index.spacing_mm).__name__} and {type(index.notes).__name__}"
        )
    check_spacing(index.spacing_mm)
    if not all(isinstance(name, str) for name in index.names):
        raise ValueError("its names are not all texts")
    for column in ("source", "subject", "organ", "licence"):
        if len(index.rows) and index.rows[column].max() >= len(index.names):
            raise ValueError(f"a {column} has no name")
    shapes = index.rows["shape"].astype(np.int64)
    if (shapes < 1).any() or (shapes.astype(float).prod(axis=1) > LARGEST_VOXELS).any():
        raise ValueError("a mask has an impossible size")
    if (index.rows["voxel_count"] > shapes.prod(axis=1)).any():
        raise ValueError("a mask has more voxels than its box")
    if int(packed_length(shapes).sum()) != mask_bytes:
        raise ValueError(f"its masks need {int(packed_length(shapes).sum())} bytes, found {mask_bytes}")


def read_checked_bits(index: BankIndex, masks: MappedMasks | np.ndarray, i: int, path: Path | None) -> np.ndarray:
    """Read the bits of one template and compare them with their checksum.

    Args:
        index: Index of the bank.
        masks: Masks of the bank.
        i: Number of the template.
        path: File of the bank, for the error message.

    Returns:
        (bytes,) uint8.

    Raises:
        InputError: If they do not match their checksum.
    """
    end = int(index.ends[i])
    bits = masks[end - int(packed_length(index.rows["shape"][i])) : end]
    if zlib.crc32(bits.data) != int(index.rows["crc32"][i]):
        entry = index.entry(i)
        raise InputError(
            f"{path} is damaged: its mask {i} ({entry.organ} of {entry.source} {entry.subject}) does not match its "
            "checksum; copy it again or build it again"
        )
    return bits
