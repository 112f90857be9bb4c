"""One subject of a bank that is being built: read once, kept as a small bank file of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretraining import __version__
from pretraining.common.checks import check_count, check_positive
from pretraining.common.fingerprint import fingerprint
from pretraining.engine.bank_file import MAGIC, TemplateEntry, checked_bits, read_bank, write_bank
from pretraining.engine.label_files import resample_nearest
from pretraining.engine.organs import read_group
from pretraining.engine.packing import pack
from pretraining.engine.rejection import Rejection, too_small
from pretraining.engine.sources import Group, ProceduralShapes
from pretraining.errors import InputError

Templates = list[tuple[TemplateEntry, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How subjects are turned into templates."""

    spacing_mm: float = 1.5
    """Voxel size that masks are resampled to, nearest neighbour."""
    min_voxels: int = 8
    """Smaller masks are rejected: nothing of them would survive the median filter."""

    def __post_init__(self) -> None:
        check_positive(spacing_mm=self.spacing_mm)
        check_count(min_voxels=self.min_voxels)


class Part(NamedTuple):
    """What is on disk of one subject."""

    path: Path
    is_new: bool
    """Whether it was read just now."""
    template_count: int
    rejected: tuple[Rejection, ...]


def make_part(reading: Reading, folder: Path, group: Group | ProceduralShapes) -> Part:
    """Read a subject and write its part to ``folder``, unless an intact one is there.

    The part is named after all that it depends on: the files by name, size and time of change, what is made of them, and by which version.
    """
    path = folder / f"{_digest(reading, group)}.part"
    if path.exists():
        try:
            templates, rejected = read_part(path)
            return Part(path, False, len(templates), rejected)
        except InputError:  # a bad disk: read the subject again
            path.unlink()
    if isinstance(group, ProceduralShapes):
        templates, rejected = _procedural(reading, group)
    else:
        content = read_group(group, reading.spacing_mm, reading.min_voxels)
        names = {"source": group.source, "subject": group.subject, "licence": group.licence}
        templates = [(TemplateEntry.of(mask, organ=organ, **names), mask.bits) for organ, mask in content.masks.items()]
        rejected = tuple(content.rejected)
    write_bank(path, templates, spacing_mm=reading.spacing_mm, notes={"rejected": rejected})
    return Part(path, True, len(templates), rejected)


def read_part(path: Path) -> tuple[Templates, tuple[Rejection, ...]]:
    """Templates of one subject, and what of it is not used."""
    index, masks = read_bank(path)
    templates = [(entry, checked_bits(index, masks, i, path)) for i, entry in enumerate(index.entries())]
    return templates, tuple(Rejection(*line) for line in index.notes["rejected"])


def _digest(reading: Reading, group: Group | ProceduralShapes) -> str:
    stamps: list[tuple[int, int] | None] = []
    for path in (*group.files, group.names_file) if isinstance(group, Group) else ():
        try:
            status = path.stat()
            stamps.append((status.st_size, status.st_mtime_ns))
        except OSError:
            stamps.append(None)
    content = [__version__, MAGIC.decode(), asdict(reading), type(group).__name__, asdict(group), stamps]
    return fingerprint(content, length=32)


def _procedural(reading: Reading, shapes: ProceduralShapes) -> tuple[Templates, tuple[Rejection, ...]]:
    # Imported here, since it brings PyTorch, and reading files needs none of it.
    from pretraining.engine.shapes import procedural_bank

    bank = procedural_bank(shapes.count)
    templates, rejected = [], []
    for i, entry in enumerate(bank.entries()):
        names = {"source": entry.source, "subject": entry.subject, "organ": entry.organ, "licence": shapes.licence}
        mask = resample_nearest(bank.mask(i).numpy(), (bank.spacing_mm,) * 3, reading.spacing_mm)
        if (count := int(mask.sum())) < reading.min_voxels:
            rejected.append(too_small(f"{entry.source} {entry.subject}: {entry.organ}", count, reading.spacing_mm, reading.min_voxels))
        else:
            packed = pack(mask)
            templates.append((TemplateEntry.of(packed, **names), packed.bits))
    return templates, tuple(rejected)
