"""Command ``templates`` of ``anatomix-pretrain``."""

from __future__ import annotations

import logging
from pathlib import Path

from pretraining.common.processes import available_cores
from pretraining.templates.build import build_bank

log = logging.getLogger(__name__)


def templates(
    source: tuple[Path, ...],
    out: Path,
    spacing: float = 1.5,
    workers: int | None = None,
    licence: tuple[str, ...] = (),
    region: tuple[str, ...] = (),
) -> None:
    """Build a bank of organ templates. If interrupted, run the command again to resume.

    Args:
        source: TotalSegmentator, nnU-Net raw, mask or label-map folders, or procedural[:COUNT].
        out: The bank to write; OUT.report.txt next to it lists all unused files.
        spacing: Isotropic spacing of the templates, mm.
        workers: Number of reading processes. Default: one per core.
        licence: Licence of sources without a LICENCE file: one for all, or one per source.
        region: Body region of each source, for balanced draws. Default: grouped by organ names.
    """
    processes = available_cores() if workers is None else workers
    report = build_bank(source, out, spacing_mm=spacing, processes=processes, licences=licence, regions=region)
    log.info("%s\n%s", out, report.summary())
