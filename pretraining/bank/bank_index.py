"""Index of a template bank: a fixed-width row per template, and each name once."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pretraining.bank.packing import PackedMask, packed_length
from pretraining.common.triple import triple

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
