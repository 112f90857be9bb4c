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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.bank.packing import PackedMask, packed_length
from pretraining.common.atomic import atomic_write
from pretraining.common.errors import InputError
from pretraining.common.triple import triple
from pretraining.imaging.limits import LARGEST_VOXELS, check_spacing

FAMILY = b"anatomix-bank-"
MAGIC = FAMILY + b"3\n"
FOOTER = struct.Struct("<QQQ32s16s")
"""Start of the index, length of its JSON part, number of rows after that, SHA-256 of both, and the
magic bytes again: a truncated file has no footer.
"""
ROW = np.dtype(
    [
        *[(name, "<u4") for name in ("source", "subject", "organ", "licence")],
        ("shape", "<i4", (3,)),
        ("offset", "<i4", (3,)),
        ("voxel_count", "<u4"),
        ("crc32", "<u4"),
    ]
)
"""Row of one template. Texts are indices into the list of names; ``crc32`` is the checksum of the
packed mask.
"""
REGIONS = "regions"
"""Note with the declared regions of the body: {source: region}."""
RESIDENT_LIMIT = 2**26
"""Bytes of masks after which the pages read are released, so that the memory of a process does not
appear to grow to the size of the bank.
"""


@dataclass(frozen=True, kw_only=True)
class TemplateEntry:
    """Description of one template."""

    source: str
    """Name of the folder or file that it comes from."""
    subject: str
    """Name of the subject within the source."""
    organ: str
    """Name of the organ."""
    shape: tuple[int, int, int]
    """Shape of the bounding box, voxels."""
    offset: tuple[int, int, int]
    """Index of the box's first voxel in the subject's volume, at the bank's spacing."""
    voxel_count: int
    """Number of set voxels."""
    licence: str = ""
    """Licence as stated by the source; empty if none is stated."""

    @classmethod
    def of(cls, mask: PackedMask, *, source: str, subject: str, organ: str, licence: str = "") -> TemplateEntry:
        """Describe a packed mask.

        Args:
            mask: Mask from :func:`pretraining.bank.packing.pack`.
            source: Name of the folder or file that it comes from.
            subject: Name of the subject within the source.
            organ: Name of the organ.
            licence: Licence as stated by the source. Default: none stated.
        """
        return cls(
            source=source,
            subject=subject,
            organ=organ,
            licence=licence,
            shape=mask.shape,
            offset=mask.offset,
            voxel_count=mask.voxel_count,
        )


@dataclass(frozen=True, kw_only=True)
class BankIndex:
    """Index of a bank: all but its masks."""

    spacing_mm: float
    """Voxel size of all masks, mm."""
    names: tuple[str, ...]
    """Texts of the rows, each once."""
    rows: np.ndarray
    """(templates,) of dtype ``ROW``."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Additional information of the writer, JSON types."""

    @cached_property
    def ends(self) -> np.ndarray:
        """(templates,) int64: end of each template's bits among the bytes of all masks."""
        return np.cumsum(packed_length(self.rows["shape"]), dtype=np.int64)

    def entry(self, i: int) -> TemplateEntry:
        """Decode row ``i``."""
        return self._entry(self.rows[i].item())

    def entries(self) -> Iterator[TemplateEntry]:
        """Decode all rows, in order."""
        return map(self._entry, self.rows.tolist())

    def encode(self) -> tuple[bytes, bytes]:
        """Encode the index as in a file: JSON part and rows."""
        head = {"spacing_mm": self.spacing_mm, "names": self.names} | ({"notes": self.notes} if self.notes else {})
        return json.dumps(head).encode(), self.rows.tobytes()

    @cached_property
    def sha256(self) -> str:
        """Digest of rows, names, spacing, notes and, through the checksums, masks."""
        return hashlib.sha256(b"".join(self.encode())).hexdigest()

    def _entry(self, row: tuple) -> TemplateEntry:
        source, subject, organ, licence, shape, offset, voxel_count, _ = row
        name = self.names
        return TemplateEntry(
            source=name[source],
            subject=name[subject],
            organ=name[organ],
            licence=name[licence],
            shape=triple(map(int, shape)),
            offset=triple(map(int, offset)),
            voxel_count=voxel_count,
        )


class IndexBuilder:
    """Builder of an index, template by template."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows: list[tuple] = []

    def add(self, entry: TemplateEntry, bits: np.ndarray) -> None:
        """Append one template.

        Args:
            entry: Description of the template.
            bits: (bytes,) uint8, its packed mask.

        Raises:
            ValueError: If the number of bytes does not fit the shape.
        """
        if bits.nbytes != packed_length(entry.shape):
            raise ValueError(f"expected {packed_length(entry.shape)} bytes of mask for {entry}, got {bits.nbytes}")
        texts = (entry.source, entry.subject, entry.organ, entry.licence)
        numbers = [self._numbers.setdefault(text, len(self._numbers)) for text in texts]
        self._rows.append((*numbers, entry.shape, entry.offset, entry.voxel_count, zlib.crc32(bits.data)))

    def build(self, *, spacing_mm: float, notes: Mapping[str, Any] | None = None) -> BankIndex:
        """Return the index of the templates added so far."""
        return BankIndex(
            spacing_mm=spacing_mm, names=tuple(self._numbers), rows=np.array(self._rows, dtype=ROW), notes=notes or {}
        )


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
