"""The file of a template bank: packed masks one after another, then an index of fixed-width rows, then a footer.

The index is small (48 bytes a template and each name once) and is read whole; the masks are mapped
and read one by one. The footer holds a digest of the index, and the index a checksum of each mask:
nothing is used that differs from what was written, and opening a bank does not have to read it.
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
"""Where the index begins, the length of its JSON part, the number of rows after that, the SHA-256
of both, and the magic bytes again: a file cut short has no footer.
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
"""One template; texts are numbers in the index's list of names, ``crc32`` is that of the packed
mask.
"""
REGIONS = "regions"
"""Note of a bank whose maker stated regions of the body: {source: region}."""
RESIDENT_LIMIT = 2**26
"""After that many bytes of masks read, their pages are given back: a process does not seem to need
the memory of the whole bank.
"""


@dataclass(frozen=True, kw_only=True)
class TemplateEntry:
    """What is known of one template."""

    source: str
    """Name of the folder or file that it came from."""
    subject: str
    organ: str
    shape: tuple[int, int, int]
    """Of its bounding box, voxels."""
    offset: tuple[int, int, int]
    """Index of the box's first voxel in the subject's volume, at the bank's spacing: where the
    organ really was.
    """
    voxel_count: int
    """Voxels that are set."""
    licence: str = ""
    """As stated by its source; empty where nothing is stated."""

    @classmethod
    def of(cls, mask: PackedMask, *, source: str, subject: str, organ: str, licence: str = "") -> TemplateEntry:
        """What is known of a mask that has just been packed."""
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
    """All of a bank but its masks."""

    spacing_mm: float
    names: tuple[str, ...]
    """Every text that occurs in the rows, once."""
    rows: np.ndarray
    """(templates,) of dtype ``ROW``."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the writer wanted to keep with the templates; JSON types."""

    @cached_property
    def ends(self) -> np.ndarray:
        """(templates,) int64: where the bits of each template end among all bits."""
        return np.cumsum(packed_length(self.rows["shape"]), dtype=np.int64)

    def entry(self, i: int) -> TemplateEntry:
        """Row ``i`` in words."""
        return self._entry(self.rows[i].item())

    def entries(self) -> Iterator[TemplateEntry]:
        """All rows in words."""
        return map(self._entry, self.rows.tolist())

    def encode(self) -> tuple[bytes, bytes]:
        """JSON part and rows, as they stand in a file."""
        head = {"spacing_mm": self.spacing_mm, "names": self.names} | ({"notes": self.notes} if self.notes else {})
        return json.dumps(head).encode(), self.rows.tobytes()

    @cached_property
    def sha256(self) -> str:
        """Digest of all the bank is: rows, names, spacing and, through the checksums, masks."""
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
    """Collects an index, template by template."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows: list[tuple] = []

    def add(self, entry: TemplateEntry, bits: np.ndarray) -> None:
        """Append one template; ValueError if ``bits`` are not as many as its shape needs."""
        if bits.nbytes != packed_length(entry.shape):
            raise ValueError(f"expected {packed_length(entry.shape)} bytes of mask for {entry}, got {bits.nbytes}")
        texts = (entry.source, entry.subject, entry.organ, entry.licence)
        numbers = [self._numbers.setdefault(text, len(self._numbers)) for text in texts]
        self._rows.append((*numbers, entry.shape, entry.offset, entry.voxel_count, zlib.crc32(bits.data)))

    def build(self, *, spacing_mm: float, notes: Mapping[str, Any] | None = None) -> BankIndex:
        """What has been collected."""
        return BankIndex(
            spacing_mm=spacing_mm, names=tuple(self._numbers), rows=np.array(self._rows, dtype=ROW), notes=notes or {}
        )


class MappedMasks:
    """The masks of a bank file; ``masks[start:stop]`` copies that part of their (bytes,) uint8 and nothing else is read."""

    def __init__(self, path: Path, length: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, dtype=np.uint8, count=length, offset=len(MAGIC))
        self._read_since = 0

    def __getitem__(self, part: slice) -> np.ndarray:
        found = self._bytes[part].copy()
        self._read_since += len(found)
        if self._read_since > RESIDENT_LIMIT and hasattr(mmap, "MADV_DONTNEED"):
            # The system keeps them cached, so that reading them again is as quick; but they no
            # longer count as this process's.
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read_since = 0
        return found


def write_bank(
    path: Path,
    templates: Iterable[tuple[TemplateEntry, np.ndarray]],
    *,
    spacing_mm: float,
    notes: Mapping[str, Any] | None = None,
) -> BankIndex:
    """Write a bank file, whole or not at all, from entries and their packed bits, which are held one at a time."""
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
        InputError: If there is no such file, or it is no bank, is one of another version, was cut
            short, or its index was changed.
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
                f"{path} is a template bank of format {version}, this software reads format {MAGIC[len(FAMILY) :].strip().decode()}; "
                "make it again with `anatomix-pretrain templates`"
            )
        if magic != MAGIC:
            raise InputError(f"{path} is not a template bank; expected a file made by `anatomix-pretrain templates`")
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - FOOTER.size, 0))
        footer = file.read()
        start, head_length, count, digest, magic = (
            FOOTER.unpack(footer) if len(footer) == FOOTER.size else (0, 0, 0, b"", b"")
        )
        if magic != MAGIC or start + head_length + count * ROW.itemsize + FOOTER.size != size:
            raise InputError(
                f"{path} was cut short or changed ({size} bytes, its end is missing); make it again or copy it again"
            )
        file.seek(start)
        content = file.read(head_length + count * ROW.itemsize)
    if hashlib.sha256(content).digest() != digest:
        raise InputError(f"{path} is damaged: its index is not what was written; make it again or copy it again")
    rows = np.frombuffer(content, dtype=ROW, offset=head_length)
    try:
        head = json.loads(content[:head_length])
        index = BankIndex(
            spacing_mm=head["spacing_mm"], names=tuple(head["names"]), rows=rows, notes=head.get("notes", {})
        )
        _check_index(index, start - len(MAGIC))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no sound template bank ({error!r}); make it again with `anatomix-pretrain templates`"
        ) from None
    return index, MappedMasks(path, start - len(MAGIC))


def _check_index(index: BankIndex, mask_bytes: int) -> None:
    """ValueError for an index that no writer of ours makes, though its digest fits: sizes, names and spacing must be possible."""
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
        raise ValueError("its names are no texts")
    for column in ("source", "subject", "organ", "licence"):
        if len(index.rows) and index.rows[column].max() >= len(index.names):
            raise ValueError(f"a {column} has no name")
    shapes = index.rows["shape"].astype(np.int64)
    if (shapes < 1).any() or (shapes.astype(float).prod(axis=1) > LARGEST_VOXELS).any():
        raise ValueError("a mask has a size that none can have")
    if (index.rows["voxel_count"] > shapes.prod(axis=1)).any():
        raise ValueError("a mask has more voxels than its box")
    if int(packed_length(shapes).sum()) != mask_bytes:
        raise ValueError(f"its masks take {int(packed_length(shapes).sum())} bytes, there are {mask_bytes}")


def read_checked_bits(index: BankIndex, masks: MappedMasks | np.ndarray, i: int, path: Path | None) -> np.ndarray:
    """(bytes,) uint8: the bits of template ``i``, compared with their checksum.

    Raises:
        InputError: If they differ from what was written.
    """
    end = int(index.ends[i])
    bits = masks[end - int(packed_length(index.rows["shape"][i])) : end]
    if zlib.crc32(bits.data) != int(index.rows["crc32"][i]):
        entry = index.entry(i)
        raise InputError(
            f"{path} is damaged: its mask {i} ({entry.organ} of {entry.source} {entry.subject}) is not what was written; "
            "make it again or copy it again"
        )
    return bits
