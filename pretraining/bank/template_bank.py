"""The template bank: organ shapes, cropped and bit-packed, in memory or in one memory-mapped file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pretraining.bank.balance import Region, group_by_region
from pretraining.bank.bank_file import (
    REGIONS,
    BankIndex,
    IndexBuilder,
    MappedMasks,
    TemplateEntry,
    read_bank,
    read_checked_bits,
)
from pretraining.bank.packing import pack, unpack
from pretraining.common.errors import InputError

Value = TypeVar("Value")


class TemplateBank:
    """Binary organ shapes; opening a bank reads the index only, and a mask is read and decoded when it is asked for.

    Args:
        index: One row per template.
        masks: (bytes,) uint8, the packed masks one after another, each beginning on a whole byte.
        path: File behind ``masks``, if any; a bank sent to another process is opened again there
            instead of copied.
    """

    def __init__(self, index: BankIndex, masks: np.ndarray | MappedMasks, *, path: Path | None = None) -> None:
        if len(index.rows) == 0:
            raise InputError(f"the template bank {path or 'in memory'} is empty; expected at least one template")
        self._index = index
        self._masks = masks
        self._shapes = index.rows["shape"].astype(np.int64)
        self._derived: dict[Hashable, Any] = {}
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> TemplateBank:
        """Open a bank file; its index is verified here, each mask whenever it is read.

        Raises:
            InputError: If there is no such file, or it is no bank or one of another version, or it
                is empty, was cut short or damaged.
        """
        path = Path(path)
        index, masks = read_bank(path)
        return cls(index, masks, path=path)

    @classmethod
    def from_masks(
        cls, masks: Sequence[Tensor | np.ndarray], organs: Sequence[str], *, source: str, spacing_mm: float
    ) -> TemplateBank:
        """Make a bank in memory of (X, Y, Z) masks, each cropped here; an empty one is refused with ValueError."""
        builder = IndexBuilder()
        bits = []
        # Masks in memory are shapes without a body around them: each is its own subject.
        for i, (organ, mask) in enumerate(zip(organs, masks, strict=True)):
            packed = pack(np.asarray(mask))
            builder.add(TemplateEntry.of(packed, source=source, subject=str(i), organ=organ), packed.bits)
            bits.append(packed.bits)
        return cls(builder.build(spacing_mm=spacing_mm), np.concatenate(bits) if bits else np.empty(0, np.uint8))

    def __len__(self) -> int:
        return len(self._shapes)

    def __reduce__(self):
        if self.path is not None:
            return _reopen, (self.path.absolute(), self.sha256)
        return TemplateBank, (self._index, self._masks)

    @property
    def spacing_mm(self) -> float:
        """Voxel size of all masks."""
        return self._index.spacing_mm

    @property
    def sha256(self) -> str:
        """Digest of all that the bank holds, the same in memory and on disk; known without reading a mask."""
        return self._index.sha256

    def entry(self, i: int) -> TemplateEntry:
        """What is known of template ``i``."""
        return self._index.entry(i)

    def entries(self) -> Iterator[TemplateEntry]:
        """What is known of each template, in order; much quicker than one by one."""
        return self._index.entries()

    def subjects(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """(source, subject) -> its templates, in order; within one subject, their offsets say how they lie to each other."""
        return self._subjects

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The templates by region of the body and kind of organ, see :func:`pretraining.bank.balance.group_by_region`."""
        return group_by_region(self.entries(), self._index.notes.get(REGIONS, {}))

    def cached(self, compute: Callable[..., Value], *arguments: Hashable) -> Value:
        """Call ``compute(bank, *arguments)``, once for each bank.

        Args:
            compute: A pure function, defined in a module.
            arguments: What it takes beside the bank.

        Returns:
            Its value, the same object in every call.
        """
        if (compute, arguments) not in self._derived:
            self._derived[compute, arguments] = compute(self, *arguments)
        return self._derived[compute, arguments]

    def shape(self, i: int) -> tuple[int, int, int]:
        """(X, Y, Z) of template ``i``, voxels."""
        return tuple(self._shapes[i].tolist())

    def packed(self, i: int) -> Tensor:
        """(bytes,) uint8: the bits of template ``i`` in C order, lowest bit first.

        Raises:
            InputError: If the file differs from what was written there.
        """
        return torch.from_numpy(read_checked_bits(self._index, self._masks, i, self.path))

    def mask(self, i: int) -> Tensor:
        """(X, Y, Z) bool: template ``i``, cropped to its bounding box."""
        return torch.from_numpy(unpack(self.packed(i).numpy(), self.shape(i)))

    def verify(self) -> None:
        """Read every mask and compare it with its checksum; InputError names the first that differs."""
        for i in range(len(self)):
            self.packed(i)

    @cached_property
    def _subjects(self) -> dict[tuple[str, str], tuple[int, ...]]:
        found: dict[tuple[str, str], list[int]] = {}
        names = self._index.names
        rows = self._index.rows
        for i, (source, subject) in enumerate(zip(rows["source"].tolist(), rows["subject"].tolist(), strict=True)):
            found.setdefault((names[source], names[subject]), []).append(i)
        return {subject: tuple(members) for subject, members in found.items()}


def _reopen(path: Path, sha256: str) -> TemplateBank:
    """The bank in another process; it must still be the one that was sent."""
    bank = TemplateBank.open(path)
    if bank.sha256 != sha256:
        raise InputError(
            f"{path} was replaced by another template bank while it was in use; start again with the bank that is meant"
        )
    return bank


def describe_templates(bank: TemplateBank) -> dict[str, Any]:
    """Number, spacing, sources and licences of the templates, and a digest of the bank's index; JSON types only."""
    entries = list(bank.entries())
    # The index has every shape and voxel count: two banks that agree in it hold the same organs of
    # the same scans.
    rows = "\n".join(
        f"{entry.source} {entry.subject} {entry.organ} {entry.shape} {entry.voxel_count}" for entry in entries
    )
    return {
        "count": len(bank),
        "spacing_mm": bank.spacing_mm,
        "sources": dict(sorted(Counter(entry.source for entry in entries).items())),
        "licences": sorted({entry.licence for entry in entries if entry.licence}),
        "sha256": hashlib.sha256(rows.encode()).hexdigest(),
    }
