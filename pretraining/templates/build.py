"""Building of a template bank: read subjects in parallel, store each, then assemble the bank.

Finished subjects are stored in ``BANK.parts``. If a build is interrupted, the next one uses them.
The bank's bytes depend neither on interruptions nor on the number of processes.
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

from pretraining.bank.bank_file import FAMILY, MAGIC, read_bank, read_checked_bits, write_bank
from pretraining.bank.bank_index import REGIONS, TemplateEntry
from pretraining.bank.packing import pack
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count, check_positive
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.fingerprint import fingerprint
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_file
from pretraining.common.processes import ProcessLost, imap_unordered
from pretraining.common.versions import VERSION
from pretraining.imaging.label_files import resample_nearest
from pretraining.templates.organs import is_one_subject, read_group
from pretraining.templates.report import BuildReport, Rejection, too_small
from pretraining.templates.sources import Group, PlainFolder, ProceduralShapes, Source, find_sources

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 20
"""Maximum number of unusable files that are logged; the report lists all of them."""


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
    """Read label files and write a bank and, next to it, ``OUT.report.txt``, each atomically.

    If interrupted, call it again with the same arguments to resume. It needs twice the bank's size
    on the disk.

    Args:
        sources: Folders and files, see :func:`pretraining.templates.sources.find_sources`.
        out: Bank file to write; an older bank is replaced.
        spacing_mm: Voxel size that masks are resampled to, mm.
        min_voxels: Least number of voxels after resampling; smaller masks are rejected.
        processes: Number of reading processes; each has one volume in memory.
        licences: Licences of the templates: one for all sources, one for each, or none.
        regions: Parts of the body, for balanced draws: one for each source, or none.

    Returns:
        The report that was written.

    Raises:
        InputError: If a source does not exist or has no label file, if ``out`` cannot be a bank, or
            if no template is usable. Single unreadable files are listed in the report.
        CommandFailed: If the disk is full or a reading process was killed. Finished subjects are
            kept for the next call.
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
                notes = _region_notes(groups)
                index = write_bank(out, _iterate_templates(done), spacing_mm=spacing_mm, notes=notes)
                report = BuildReport.of(index, rejected)
                write_text(out.with_name(f"{out.name}.report.txt"), f"{report}\n")
        for part in parts.glob("*.part"):
            part.unlink()
    with suppress(OSError):  # another process may have begun a build
        parts.rmdir()
    if not usable:
        first = "; ".join(f"{what}: {why}" for what, why, _ in rejected[:3])
        raise InputError(f"nothing usable among the {len(done)} template sources: {first}")
    return report


@contextmanager
def _report_kept_parts(parts: Path) -> Iterator[None]:
    """Say how many subjects are kept and how to resume if the build is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped: %s", _resume_hint(parts))
        raise
    except ProcessLost as lost:
        folders = ", ".join(sorted({str(getattr(item, "folder", item)) for item in lost.items}))
        raise CommandFailed(
            f"a reading process was killed, most likely because memory ran out, at one of {folders}. "
            f"{_resume_hint(parts)}, with fewer --workers or without the largest files"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CommandFailed(f"no space left on the disk of {parts}: make room. {_resume_hint(parts)}") from error


def _check_output(out: Path) -> None:
    if out.is_dir():
        raise InputError(
            f"{out} is a folder; a template bank is one file, so give a file, for example {out / 'templates.bank'}"
        )
    if out.exists() and out.stat().st_size:
        with out.open("rb") as file:
            if not file.read(len(MAGIC)).startswith(FAMILY):
                raise InputError(f"{out} exists and is not a template bank; give another file, or remove it first")


def _resolve_sources(found: Sequence[Source], processes: int) -> list[Group | ProceduralShapes]:
    """Return the groups to read, after examining the content of plain folders."""
    folders = [source for source in found if isinstance(source, PlainFolder)]
    one_subject = dict(imap_unordered(_is_one_subject, folders, processes=min(processes, max(1, len(folders)))))
    groups: list[Group | ProceduralShapes] = []
    for source in found:
        groups += source.groups(one_subject=one_subject[source]) if isinstance(source, PlainFolder) else [source]
    return groups


def _region_notes(groups: Sequence[Group | ProceduralShapes]) -> dict[str, dict[str, str]]:
    declared = {group.source: group.region for group in groups if group.region}
    return {REGIONS: declared} if declared else {}


def _is_one_subject(folder: PlainFolder) -> bool:
    return is_one_subject(folder.files)


def _read_all(
    groups: Sequence[Group | ProceduralShapes], reading: Reading, folder: Path, processes: int
) -> list[SubjectPart]:
    """Read all groups in parallel and log unusable files as they are found; parts are in order."""
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
        logger.warning("%d more are not used; the report lists them", len(unusable) - SHOWN_PROBLEMS)
    if resumed := sum(not part.is_new for part in parts.values()):
        logger.info("%d of %d subjects were read by an earlier build", resumed, len(groups))
    return [parts[group] for group in groups]


def _iterate_templates(parts: Sequence[SubjectPart]) -> Iterator[tuple[TemplateEntry, np.ndarray]]:
    """Iterate over all templates in order, with one subject in memory at a time."""
    for part in parts:
        yield from read_part(part.path)[0]


def _resume_hint(parts: Path) -> str:
    count = sum(1 for _ in parts.glob("*.part"))
    return f"{count} finished subjects are kept in {parts}: run the same command again to resume"


Templates = list[tuple[TemplateEntry, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings of the conversion from label files to templates."""

    spacing_mm: float = 1.5
    """Voxel size that masks are resampled to by nearest neighbour, mm."""
    min_voxels: int = 8
    """Least number of voxels of a mask; smaller ones would vanish in the median filter."""

    def __post_init__(self) -> None:
        check_positive(spacing_mm=self.spacing_mm)
        check_count(min_voxels=self.min_voxels)


class SubjectPart(NamedTuple):
    """Templates of one subject on disk."""

    path: Path
    """File of the templates, in the format of a bank."""
    is_new: bool
    """Read by this build, not an earlier one."""
    template_count: int
    """Number of templates in the file."""
    rejected: tuple[Rejection, ...]
    """Files and organs of the subject that are not used."""


def make_part(reading: Reading, folder: Path, group: Group | ProceduralShapes) -> SubjectPart:
    """Read a subject and write its part to ``folder``, unless an intact one exists.

    Args:
        reading: Settings of the conversion.
        folder: Folder of the parts.
        group: Files of the subject.

    Returns:
        The part. The name of its file is a digest of all that it depends on: names, sizes and times
        of change of the files, the settings, and the software version.
    """
    path = folder / f"{_digest(reading, group)}.part"
    if path.exists():
        try:
            templates, rejected = read_part(path)
            return SubjectPart(path, False, len(templates), rejected)
        except InputError:  # damaged part: read the subject again
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
    """Read the templates of one subject, and its files and organs that are not used.

    Raises:
        InputError: If the part is damaged.
    """
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
    content = [VERSION, MAGIC.decode(), asdict(reading), type(group).__name__, asdict(group), stamps]
    return fingerprint(content, length=32)


def _make_procedural(reading: Reading, shapes: ProceduralShapes) -> tuple[Templates, tuple[Rejection, ...]]:
    # Imported here, since it imports PyTorch, which reading files does not need.
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
