"""Building a template bank: subjects are read in parallel, kept one by one, and put together in the end.

What is finished lies in ``BANK.parts``, where a build that was killed finds it when it is started again. The bank's bytes depend
neither on that nor on the number of processes.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretraining.atomic import write_text
from pretraining.common.lock import locked
from pretraining.common.outputs import try_file
from pretraining.engine.bank_file import FAMILY, MAGIC, REGIONS, TemplateEntry, write_bank
from pretraining.engine.bank_parts import Part, Reading, make_part, read_part
from pretraining.engine.build_report import BuildReport
from pretraining.engine.organs import is_one_subject
from pretraining.engine.rejection import Rejection
from pretraining.engine.sources import Group, PlainFolder, ProceduralShapes, Source, find_sources
from pretraining.errors import CommandFailed, InputError
from pretraining.processes import ProcessLost, finished

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

    Called again after it was killed, with the same arguments, it continues where it stopped. While it runs, it needs twice the
    bank's size on the disk.

    Args:
        sources: See :func:`pretraining.engine.sources.find_sources`, as for ``licences`` and ``regions``.
        out: The bank file; an older bank is replaced.
        spacing_mm: See :class:`pretraining.engine.bank_parts.Reading`, as for ``min_voxels``.
        min_voxels: Masks with fewer voxels are rejected.
        processes: Number of processes that read; each holds one volume in memory.
        licences: Stated with each template.
        regions: Parts of the body, for balanced draws.

    Raises:
        InputError: If a source does not exist or holds no label file, if ``out`` cannot be a bank, or if not one
            template in all sources is usable. An unreadable file among others only stands in the report.
        CommandFailed: If the disk is full or a reading process was ended from outside; what is finished is kept for the
            next call.
        InUse: If another process builds the same bank.
    """
    reading = Reading(spacing_mm=spacing_mm, min_voxels=min_voxels)
    if processes < 1:
        raise InputError(f"expected at least one process to read with, found {processes}")
    out = Path(out)
    _check_place(out)
    try_file(out)
    found, rejected = find_sources([Path(source) for source in sources], licences, regions)
    parts = out.with_name(f"{out.name}.parts")
    with locked(parts):
        with _keeping(parts):
            groups = _decided(found, processes)
            done = _read_all(groups, reading, parts, processes)
            rejected += [line for part in done for line in part.rejected]
            usable = any(part.template_count for part in done)
            if usable:
                index = write_bank(out, _templates(done), spacing_mm=spacing_mm, notes=_region_notes(groups))
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
def _keeping(parts: Path) -> Iterator[None]:
    """Tell, whatever ends a build too early, what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped: %s", _to_go_on(parts))
        raise
    except ProcessLost as lost:
        where = ", ".join(sorted({str(getattr(item, "folder", item)) for item in lost.items}))
        raise CommandFailed(
            f"a reading process was ended from outside, most likely because memory ran out, at one of {where}. {_to_go_on(parts)}, "
            "with fewer --workers or without what is too large"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CommandFailed(f"no space left on the disk of {parts}: make room. {_to_go_on(parts)}") from error


def _check_place(out: Path) -> None:
    if out.is_dir():
        raise InputError(f"{out} is a folder; a template bank is one file, so name a file, for example {out / 'templates.bank'}")
    if out.exists() and out.stat().st_size:
        with out.open("rb") as file:
            if not file.read(len(MAGIC)).startswith(FAMILY):
                raise InputError(f"{out} exists and is no template bank; name another file, or remove it first")


def _decided(found: Sequence[Source], processes: int) -> list[Group | ProceduralShapes]:
    """What there is to read, once it is found out what the files of plain folders are."""
    folders = [source for source in found if isinstance(source, PlainFolder)]
    one_subject = dict(finished(_is_one_subject, folders, processes=min(processes, max(1, len(folders)))))
    decided: list[Group | ProceduralShapes] = []
    for source in found:
        decided += source.groups(one_subject=one_subject[source]) if isinstance(source, PlainFolder) else [source]
    return decided


def _region_notes(groups: Sequence[Group | ProceduralShapes]) -> dict[str, dict[str, str]]:
    stated = {group.source: group.region for group in groups if group.region}
    return {REGIONS: stated} if stated else {}


def _is_one_subject(folder: PlainFolder) -> bool:
    return is_one_subject(folder.files)


def _read_all(groups: Sequence[Group | ProceduralShapes], reading: Reading, folder: Path, processes: int) -> list[Part]:
    """Make the part of each group; what is unusable is told as it is met."""
    parts: dict[Group | ProceduralShapes, Part] = {}
    unusable: set[Rejection] = set()
    bar = tqdm(total=len(groups), unit="subject", dynamic_ncols=True, mininterval=1.0)
    with logging_redirect_tqdm([logging.getLogger()]), bar:
        for group, part in finished(partial(make_part, reading, folder), groups, processes=min(processes, len(groups))):
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


def _templates(parts: Sequence[Part]) -> Iterator[tuple[TemplateEntry, np.ndarray]]:
    """All templates in order, one subject in memory at a time."""
    for part in parts:
        yield from read_part(part.path)[0]


def _to_go_on(parts: Path) -> str:
    count = sum(1 for _ in parts.glob("*.part"))
    return f"{count} finished subjects are kept in {parts}: to go on, run the same command again"
