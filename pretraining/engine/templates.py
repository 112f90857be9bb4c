"""The template bank: organ shapes, cropped and bit-packed, in one memory-mapped file."""

from __future__ import annotations

import json
import logging
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretraining.atomic import written_whole
from pretraining.engine.sources import Group, find_groups, read_group
from pretraining.errors import InputError

logger = logging.getLogger(__name__)

MAGIC = b"anatomix-bank-2\n"
FOOTER = struct.Struct("<QQ16s")
"""Where the JSON index begins, its length, and the magic bytes again: a file cut short has no footer."""


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
    """Index of the box's first voxel in the subject's volume, at the bank's spacing: where the organ really was."""
    voxel_count: int
    """Voxels that are set."""
    licence: str = ""
    """As stated by its source; empty where nothing is stated."""


class TemplateBank:
    """Binary organ shapes; opening one reads the index only, and a mask is decoded when it is asked for.

    Parameters
    ----------
    index : columns of equal length, one per field of :class:`TemplateEntry`.
    blob : (bytes,) uint8, the packed masks one after another, each beginning on a whole byte.
    spacing_mm : voxel size of all masks.
    path : file behind ``blob``, if any; a bank sent to another process is opened again there instead of copied.
    """

    def __init__(self, index: dict[str, list], blob: np.ndarray, *, spacing_mm: float, path: Path | None = None) -> None:
        self._index = index
        self._blob = blob
        self.spacing_mm = spacing_mm
        self.path = path
        self._shapes = np.asarray(index["shape"], dtype=np.int64).reshape(-1, 3)
        self._ends = np.cumsum(_packed_length(self._shapes))
        if len(self._ends) == 0:
            raise InputError(f"the template bank {path or 'in memory'} is empty; expected at least one template")

    @classmethod
    def open(cls, path: str | Path) -> TemplateBank:
        """Open a bank file.

        Raises
        ------
        InputError
            If there is no such file, or it is no bank, or it was cut short.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no template bank at {path}; make one with `anatomix-pretrain templates --source DIR --out {path}`")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{path} is not a template bank; expected a file made by `anatomix-pretrain templates`")
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - FOOTER.size, 0))
            footer = file.read()
            start, length, magic = FOOTER.unpack(footer) if len(footer) == FOOTER.size else (0, 0, b"")
            if magic != MAGIC or start + length + FOOTER.size != size:
                raise InputError(f"{path} was cut short or changed ({size} bytes, its end is missing); make it again or copy it again")
            file.seek(start)
            index = json.loads(file.read(length))
        blob = np.memmap(path, dtype=np.uint8, mode="r", offset=len(MAGIC), shape=(start - len(MAGIC),))
        bank = cls(index["templates"], blob, spacing_mm=index["spacing_mm"], path=path)
        if bank._ends[-1] != len(blob):
            raise InputError(f"{path} is damaged: its index speaks of {bank._ends[-1]} bytes of masks, found {len(blob)}; make it again")
        return bank

    @classmethod
    def from_masks(cls, masks: Sequence[Tensor | np.ndarray], organs: Sequence[str], *, source: str, spacing_mm: float) -> TemplateBank:
        """Make a bank in memory of (X, Y, Z) masks, each cropped here; an empty one is refused with ValueError."""
        packed = [pack(np.asarray(mask)) for mask in masks]
        # Masks in memory are shapes without a body around them: each is its own subject.
        entries = [
            TemplateEntry(source=source, subject=str(i), organ=organ, shape=mask.shape, offset=mask.offset, voxel_count=mask.voxel_count)
            for i, (organ, mask) in enumerate(zip(organs, packed, strict=True))
        ]
        return cls(columns(entries), np.concatenate([mask.bits for mask in packed]), spacing_mm=spacing_mm)

    def __len__(self) -> int:
        return len(self._ends)

    def __reduce__(self):
        if self.path is not None:
            return TemplateBank.open, (self.path,)
        return _in_memory, (self._index, np.asarray(self._blob), self.spacing_mm)

    def entry(self, i: int) -> TemplateEntry:
        """What is known of template ``i``."""
        row = {name: values[i] for name, values in self._index.items()}
        return TemplateEntry(**row | {"shape": tuple(row["shape"]), "offset": tuple(row["offset"])})

    def shape(self, i: int) -> tuple[int, int, int]:
        """(X, Y, Z) of template ``i``, voxels."""
        return tuple(self._shapes[i].tolist())

    def packed(self, i: int) -> Tensor:
        """(bytes,) uint8: the bits of template ``i`` in C order, lowest bit first."""
        length = _packed_length(self._shapes[i])
        return torch.from_numpy(np.array(self._blob[self._ends[i] - length : self._ends[i]]))

    def mask(self, i: int) -> Tensor:
        """(X, Y, Z) bool: template ``i``, cropped to its bounding box."""
        count = int(self._shapes[i].prod())
        bits = np.unpackbits(self.packed(i).numpy(), count=count, bitorder="little")
        return torch.from_numpy(bits.reshape(self.shape(i)).view(np.bool_))


class PackedMask(NamedTuple):
    """A mask, cropped and bit-packed."""

    bits: np.ndarray
    """(bytes,) uint8, in C order, lowest bit first."""
    shape: tuple[int, int, int]
    """Of the bounding box, voxels."""
    offset: tuple[int, int, int]
    """Index of the box's first voxel in the mask."""
    voxel_count: int


def pack(mask: np.ndarray) -> PackedMask:
    """Crop a (X, Y, Z) mask to its bounding box and pack its bits.

    Raises
    ------
    ValueError
        If nothing is set.
    """
    mask = mask != 0
    if not mask.any():
        raise ValueError("the mask is empty")
    ends = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))[[0, -1]].tolist() for axis in range(3)]
    mask = mask[tuple(slice(first, last + 1) for first, last in ends)]
    return PackedMask(np.packbits(mask, axis=None, bitorder="little"), mask.shape, tuple(first for first, _ in ends), int(mask.sum()))


def columns(entries: Iterable[TemplateEntry]) -> dict[str, list]:
    """Turn entries into the columns of an index."""
    rows = [asdict(entry) for entry in entries]
    return {name: [row[name] for row in rows] for name in TemplateEntry.__dataclass_fields__}


def write_bank(path: Path, templates: Iterable[tuple[TemplateEntry, np.ndarray]], *, spacing_mm: float) -> int:
    """Write a bank file, whole or not at all, from entries and their packed bits; return how many there were."""
    with written_whole(path) as unfinished:
        with unfinished.open("wb") as file:
            file.write(MAGIC)
            entries = list(_blob_written(file, templates))
            if not entries:
                raise InputError(f"nothing usable for the template bank {path}")
            index = json.dumps({"spacing_mm": spacing_mm, "templates": columns(entries)}).encode()
            start = file.tell()
            file.write(index + FOOTER.pack(start, len(index), MAGIC))
        return len(entries)


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What became of the files that a bank was built from."""

    template_count: int
    templates_of_source: dict[str, int]
    rejected: tuple[tuple[str, str], ...]
    """(file, or subject and organ; reason)."""

    def __str__(self) -> str:
        lines = [f"{self.template_count} templates"]
        lines += [f"  {count:6d} from {source}" for source, count in self.templates_of_source.items()]
        lines += [f"{len(self.rejected)} not used", *(f"  {what}: {why}" for what, why in self.rejected)] if self.rejected else []
        return "\n".join(lines)


def build_bank(sources: Sequence[Path], out: Path, spacing_mm: float = 1.5, *, min_voxels: int = 8, processes: int = 1) -> BuildReport:
    """Read label files and write a bank, whole or not at all.

    Parameters
    ----------
    sources : folders and files, see :func:`pretraining.engine.sources.find_groups`.
    out : the bank file; an older one is replaced.
    spacing_mm : voxel size that masks are resampled to, nearest neighbour.
    min_voxels : smaller masks are rejected: nothing of them would survive the median filter.
    processes : how many read at a time.

    Raises
    ------
    InputError
        If a source does not exist or holds no label file, or if not one template in all of them is usable. An unreadable file among others
        only stands in the report.
    """
    if spacing_mm <= 0 or min_voxels < 1 or processes < 1:
        raise ValueError(f"need spacing_mm > 0, min_voxels >= 1 and processes >= 1, got {spacing_mm}, {min_voxels} and {processes}")
    out = Path(out)
    if out.is_dir():
        raise InputError(f"{out} is a folder; a template bank is one file, so name a file, for example {out / 'templates.bank'}")
    groups = [group for source in sources for group in find_groups(Path(source))]
    rejected: list[tuple[str, str]] = []
    of_source: Counter[str] = Counter()

    def packed() -> Iterator[tuple[TemplateEntry, np.ndarray]]:
        with ExitStack() as stack:
            run = map
            if processes > 1:
                run = stack.enter_context(ProcessPoolExecutor(processes, mp_context=get_context("spawn"))).map
            for group, (found, reasons) in zip(groups, run(partial(_packed_group, spacing_mm, min_voxels), groups), strict=True):
                logger.info("%s %s: %d templates, %d not used", group.source, group.subject, len(found), len(reasons))
                rejected.extend(reasons)
                of_source[group.source] += len(found)
                yield from found
        if not sum(of_source.values()):
            first = "; ".join(f"{what}: {why}" for what, why in rejected[:3])
            raise InputError(f"nothing usable among the {len(groups)} template sources: {first}")

    count = write_bank(out, packed(), spacing_mm=spacing_mm)
    return BuildReport(template_count=count, templates_of_source=dict(of_source), rejected=tuple(rejected))


def _packed_group(spacing_mm: float, min_voxels: int, group: Group) -> tuple[list[tuple[TemplateEntry, np.ndarray]], list[tuple[str, str]]]:
    content = read_group(group, spacing_mm, min_voxels)
    found = []
    for organ, mask in content.masks.items():
        packed = pack(mask)
        where = {"shape": packed.shape, "offset": packed.offset, "voxel_count": packed.voxel_count}
        entry = TemplateEntry(source=group.source, subject=group.subject, organ=organ, licence=group.licence, **where)
        found.append((entry, packed.bits))
    return found, content.rejected


def _blob_written(file: BinaryIO, templates: Iterable[tuple[TemplateEntry, np.ndarray]]) -> Iterator[TemplateEntry]:
    for entry, bits in templates:
        file.write(bits.tobytes())
        yield entry


def _packed_length(shapes: np.ndarray) -> np.ndarray:
    """Whole bytes that hold the bits of masks of these (..., 3) shapes."""
    return (shapes.prod(axis=-1) + 7) // 8


def _in_memory(index: dict[str, list], blob: np.ndarray, spacing_mm: float) -> TemplateBank:
    return TemplateBank(index, blob, spacing_mm=spacing_mm)
