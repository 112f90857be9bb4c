"""Template bank: cropped, bit-packed organ shapes in memory or in one memory-mapped file."""

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
from pretraining.bank.bank_file import MappedMasks, read_bank, read_checked_bits
from pretraining.bank.bank_index import REGIONS, BankIndex, IndexBuilder, TemplateEntry
from pretraining.bank.packing import pack, unpack
from pretraining.common.errors import InputError

Value = TypeVar("Value")


class TemplateBank:
    """Binary organ shapes, read one by one.

    Opening a bank reads the index only. A mask is read and unpacked when it is needed.

    Args:
        index: Index with one row per template.
        masks: (bytes,) uint8, concatenated packed masks, each of whole bytes.
        path: File of ``masks``, if any. A bank with a file that is sent to another process is
            opened again there instead of copied.
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
        """Open a bank file.

        The index is verified when the bank is opened, each mask whenever it is read.

        Raises:
            InputError: If the file does not exist, is not a bank, has another format version, is
                empty, truncated or damaged.
        """
        path = Path(path)
        index, masks = read_bank(path)
        return cls(index, masks, path=path)

    @classmethod
    def from_masks(
        cls, masks: Sequence[Tensor | np.ndarray], organs: Sequence[str], *, source: str, spacing_mm: float
    ) -> TemplateBank:
        """Make a bank in memory.

        Args:
            masks: (X, Y, Z) masks; each is cropped to its bounding box.
            organs: Name of each mask.
            source: Name of the common source.
            spacing_mm: Voxel size of all masks, mm.

        Raises:
            ValueError: If a mask is empty.
            InputError: If there are no masks.
        """
        builder = IndexBuilder()
        bits = []
        # Each mask is its own subject, as masks in memory do not share a body.
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
        """Voxel size of all masks, mm."""
        return self._index.spacing_mm

    @property
    def sha256(self) -> str:
        """Digest of the bank, the same in memory and on disk; computed without reading a mask."""
        return self._index.sha256

    def entry(self, i: int) -> TemplateEntry:
        """Return the description of template ``i``."""
        return self._index.entry(i)

    def entries(self) -> Iterator[TemplateEntry]:
        """Iterate over the descriptions of all templates; much faster than one by one."""
        return self._index.entries()

    def subjects(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return the templates of each subject, in order, by (source, subject).

        The offsets of one subject's templates give their relative positions.
        """
        return self._subjects

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Templates by region and kind, see :func:`pretraining.bank.balance.group_by_region`."""
        return group_by_region(self.entries(), self._index.notes.get(REGIONS, {}))

    def cached(self, compute: Callable[..., Value], *arguments: Hashable) -> Value:
        """Return ``compute(bank, *arguments)``, computed once per bank.

        Args:
            compute: Pure function or class, defined in a module.
            *arguments: Further arguments of ``compute``.

        Returns:
            Its value, the same object in every call.
        """
        if (compute, arguments) not in self._derived:
            self._derived[compute, arguments] = compute(self, *arguments)
        return self._derived[compute, arguments]

    def shape(self, i: int) -> tuple[int, int, int]:
        """Return (X, Y, Z) of template ``i``, voxels."""
        return tuple(self._shapes[i].tolist())

    def packed(self, i: int) -> Tensor:
        """Read the bits of template ``i``, (bytes,) uint8 in C order, lowest bit first.

        Raises:
            InputError: If the bits do not match their checksum.
        """
        return torch.from_numpy(read_checked_bits(self._index, self._masks, i, self.path))

    def mask(self, i: int) -> Tensor:
        """Read template ``i``, (X, Y, Z) bool, cropped to its bounding box."""
        return torch.from_numpy(unpack(self.packed(i).numpy(), self.shape(i)))

    def verify(self) -> None:
        """Read every mask and compare it with its checksum.

        Raises:
            InputError: If a mask does not match; the message names the first one.
        """
        for i in range(len(self)):
            self.packed(i)

    @cached_property
    def _subjects(self) -> dict[tuple[str, str], tuple[int, ...]]:
        members_of: dict[tuple[str, str], list[int]] = {}
        names = self._index.names
        rows = self._index.rows
        for i, (source, subject) in enumerate(zip(rows["source"].tolist(), rows["subject"].tolist(), strict=True)):
            members_of.setdefault((names[source], names[subject]), []).append(i)
        return {subject: tuple(members) for subject, members in members_of.items()}


def _reopen(path: Path, sha256: str) -> TemplateBank:
    """Open a bank in another process and check that it is still the same."""
    bank = TemplateBank.open(path)
    if bank.sha256 != sha256:
        raise InputError(
            f"{path} was replaced by another template bank while it was in use; start again with the intended bank"
        )
    return bank


def describe_templates(bank: TemplateBank) -> dict[str, Any]:
    """Describe the templates of a bank for a model card.

    Returns:
        Number, spacing, sources and licences of the templates, and a digest of their names, shapes
        and voxel counts; JSON types only.
    """
    entries = list(bank.entries())
    # Names, shapes and voxel counts identify the organs: banks that agree in all of them have the
    # same organs of the same scans.
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
