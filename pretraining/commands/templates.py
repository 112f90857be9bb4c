"""``anatomix-pretrain templates``."""

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
    """Build a bank of organ templates; a build that was killed goes on when started again.

    Args:
        source: TotalSegmentator folders, nnU-Net raw datasets, folders of binary masks, multi-label
            maps (NIfTI, NRRD, MHA), or procedural[:COUNT].
        out: The bank to write; OUT.report.txt beside it names all that was not used.
        spacing: Isotropic grid of the templates, mm.
        workers: Processes that read, by default one per core.
        licence: Of sources that have no LICENCE file: one for all, or one for each source in order.
        region: Part of the body that each source shows, in order, for balanced draws; by default
            sources whose organs have other names are other regions.
    """
    processes = available_cores() if workers is None else workers
    report = build_bank(source, out, spacing_mm=spacing, processes=processes, licences=licence, regions=region)
    log.info("%s\n%s", out, report.summary())
