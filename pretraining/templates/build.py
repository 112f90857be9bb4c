"""Building a template bank: subjects are read in parallel, kept one by one, and put together in the end.

What is finished lies in ``BANK.parts``, where a build that was killed finds it when it is started
again. The bank's bytes depend neither on that nor on the number of processes.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretraining import __version__
from pretraining.bank.bank_file import FAMILY, MAGIC, REGIONS, TemplateEntry, read_bank, read_checked_bits, write_bank
from pretraining.bank.packing import pack
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count, check_positive
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.fingerprint import fingerprint
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_file
from pretraining.common.processes import ProcessLost, imap_unordered
from pretraining.imaging.label_files import resample_nearest
from pretraining.templates.organs import is_one_subject, read_group
from pretraining.templates.report import BuildReport, Rejection, too_small
from pretraining.templates.sources import Group, PlainFolder, ProceduralShapes, Source, find_sources

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 20
"""So many unusable files are told as they are met; all of them stand in the report."""


def build_bank(
    sources: Sequence[Path],
    out: Path,
    spacing_mm: float = 1.5,
    *,
    min_voxels: int = 8,
    processes: int = 1,
    licences: Sequence[str] = (),
    regions: Sequence[str] = (),
) -> BuildReport:
    """Read label files and write a bank and, beside it, ``OUT.report.txt``, each whole or not at all.

    Called again after it was killed, with the same arguments, it continues where it stopped. While
    it runs, it needs twice the bank's size on the disk.

    Args:
        sources: See :func:`pretraining.templates.sources.find_sources`, as for ``licences`` and
            ``regions``.
        out: The bank file; an older bank is replaced.
        spacing_mm: See :class:`pretraining.templates.build.Reading`, as for ``min_voxels``.
        min_voxels: Masks with fewer voxels are rejected.
        processes: Number of processes that read; each holds one volume in memory.
        licences: Stated with each template.
        regions: Parts of the body, for balanced draws.

    Raises:
        InputError: If a source does not exist or holds no label file, if ``out`` cannot be a bank,
            or if not one template in all sources is usable. An unreadable file among others only
            stands in the report.
        CommandFailed: If the disk is full or a reading process was ended from outside; what is
            finished is kept for the next call.
        InUse: If another process builds the same bank.
    """
    reading = Reading(spacing_mm=spacing_mm, min_voxels=min_voxels)
    if processes < 1:
        raise InputError(f"expected at least one process to read with, found {processes}")
    out = Path(out)
    _check_output(out)
    try_file(out)
    found, rejected = find_sources([Path(source) for source in sources], licences, regions)
    parts = out.with_name(f"{out.name}.parts")
    with hold_lock(parts):
        with _report_kept_parts(parts):
            groups = _resolve_sources(found, processes)
            done = _read_all(groups, reading, parts, processes)
            rejected += [line for part in done for line in part.rejected]
            usable = any(part.template_count for part in done)
            if usable:
                index = write_bank(out, _iterate_templates(done), spacing_mm=spacing_mm, notes=_region_notes(groups))
                report = BuildReport.of(index, rejected)
                write_text(out.with_name(f"{out.name}.report.txt"), f"{report}\n")
        for part in parts.glob("*.part"):
            part.unlink()
    with suppress(OSError):  # another process may begin just now
        parts.rmdir()
    if not usable:
        first = "; ".join(f"{what}: {why}" for what, why, _ in rejected[:3])
        raise InputError(f"nothing usable among the {len(done)} template sources: {first}")
    return report


@contextmanager
def _report_kept_parts(parts: Path) -> Iterator[None]:
    """Tell, whatever ends a build too early, what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped: %s", _resume_hint(parts))
        raise
    except ProcessLost as lost:
        where = ", ".join(sorted({str(getattr(item, "folder", item)) for item in lost.items}))
        raise CommandFailed(
            f"a reading process was ended from outside, most likely because memory ran out, at one of {where}. {_resume_hint(parts)}, "
            "with fewer --workers or without what is too large"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CommandFailed(f"no space left on the disk of {parts}: make room. {_resume_hint(parts)}") from error


def _check_output(out: Path) -> None:
    if out.is_dir():
        raise InputError(
            f"{out} is a folder; a template bank is one file, so name a file, for example {out / 'templates.bank'}"
        )
    if out.exists() and out.stat().st_size:
        with out.open("rb") as file:
            if not file.read(len(MAGIC)).startswith(FAMILY):
                raise InputError(f"{out} exists and is no template bank; name another file, or remove it first")


def _resolve_sources(found: Sequence[Source], processes: int) -> list[Group | ProceduralShapes]:
    """What there is to read, once it is found out what the files of plain folders are."""
    folders = [source for source in found if isinstance(source, PlainFolder)]
    one_subject = dict(imap_unordered(_is_one_subject, folders, processes=min(processes, max(1, len(folders)))))
    decided: list[Group | ProceduralShapes] = []
    for source in found:
        decided += source.groups(one_subject=one_subject[source]) if isinstance(source, PlainFolder) else [source]
    return decided


def _region_notes(groups: Sequence[Group | ProceduralShapes]) -> dict[str, dict[str, str]]:
    stated = {group.source: group.region for group in groups if group.region}
    return {REGIONS: stated} if stated else {}


def _is_one_subject(folder: PlainFolder) -> bool:
    return is_one_subject(folder.files)


def _read_all(groups: Sequence[Group | ProceduralShapes], reading: Reading, folder: Path, processes: int) -> list[SubjectPart]:
    """Make the part of each group; what is unusable is told as it is met."""
    parts: dict[Group | ProceduralShapes, SubjectPart] = {}
    unusable: set[Rejection] = set()
    bar = tqdm(total=len(groups), unit="subject", dynamic_ncols=True, mininterval=1.0)
    with logging_redirect_tqdm([logging.getLogger()]), bar:
        for group, part in imap_unordered(
            partial(make_part, reading, folder), groups, processes=min(processes, len(groups))
        ):
            parts[group] = part
            for line in part.rejected:
                if line.kind == "unusable" and line not in unusable:
                    unusable.add(line)
                    if len(unusable) <= SHOWN_PROBLEMS:
                        logger.warning("not used: %s: %s", line.what, line.why)
            bar.update()
    if len(unusable) > SHOWN_PROBLEMS:
        logger.warning("%d more are not used; the report names them", len(unusable) - SHOWN_PROBLEMS)
    if found_before := sum(not part.is_new for part in parts.values()):
        logger.info("%d of %d subjects had been read before", found_before, len(groups))
    return [parts[group] for group in groups]


def _iterate_templates(parts: Sequence[SubjectPart]) -> Iterator[tuple[TemplateEntry, np.ndarray]]:
    """All templates in order, one subject in memory at a time."""
    for part in parts:
        yield from read_part(part.path)[0]


def _resume_hint(parts: Path) -> str:
    count = sum(1 for _ in parts.glob("*.part"))
    return f"{count} finished subjects are kept in {parts}: to go on, run the same command again"


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


class SubjectPart(NamedTuple):
    """What is on disk of one subject."""

    path: Path
    is_new: bool
    """Whether it was read just now."""
    template_count: int
    rejected: tuple[Rejection, ...]


def make_part(reading: Reading, folder: Path, group: Group | ProceduralShapes) -> SubjectPart:
    """Read a subject and write its part to ``folder``, unless an intact one is there.

    The part is named after all that it depends on: the files by name, size and time of change, what
    is made of them, and by which version.
    """
    path = folder / f"{_digest(reading, group)}.part"
    if path.exists():
        try:
            templates, rejected = read_part(path)
            return SubjectPart(path, False, len(templates), rejected)
        except InputError:  # a bad disk: read the subject again
            path.unlink()
    if isinstance(group, ProceduralShapes):
        templates, rejected = _make_procedural(reading, group)
    else:
        content = read_group(group, reading.spacing_mm, reading.min_voxels)
        names = {"source": group.source, "subject": group.subject, "licence": group.licence}
        templates = [(TemplateEntry.of(mask, organ=organ, **names), mask.bits) for organ, mask in content.masks.items()]
        rejected = tuple(content.rejected)
    write_bank(path, templates, spacing_mm=reading.spacing_mm, notes={"rejected": rejected})
    return SubjectPart(path, True, len(templates), rejected)


def read_part(path: Path) -> tuple[Templates, tuple[Rejection, ...]]:
    """Templates of one subject, and what of it is not used."""
    index, masks = read_bank(path)
    templates = [(entry, read_checked_bits(index, masks, i, path)) for i, entry in enumerate(index.entries())]
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


def _make_procedural(reading: Reading, shapes: ProceduralShapes) -> tuple[Templates, tuple[Rejection, ...]]:
    # Imported here, since it brings PyTorch, and reading files needs none of it.
    from pretraining.templates.procedural import procedural_bank

    bank = procedural_bank(shapes.count)
    templates, rejected = [], []
    for i, entry in enumerate(bank.entries()):
        names = {"source": entry.source, "subject": entry.subject, "organ": entry.organ, "licence": shapes.licence}
        mask = resample_nearest(bank.mask(i).numpy(), (bank.spacing_mm,) * 3, reading.spacing_mm)
        if (count := int(mask.sum())) < reading.min_voxels:
            rejected.append(
                too_small(
                    f"{entry.source} {entry.subject}: {entry.organ}", count, reading.spacing_mm, reading.min_voxels
                )
            )
        else:
            packed = pack(mask)
            templates.append((TemplateEntry.of(packed, **names), packed.bits))
    return templates, tuple(rejected)
