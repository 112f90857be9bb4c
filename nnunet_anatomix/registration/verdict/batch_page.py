"""Page of a batch: all pairs with their verdicts, worst first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from nnunet_anatomix.registration.summary import REGISTRATION_FILE, PairMetrics, pair_row, read_registration
from nnunet_anatomix.registration.verdict.judge import LEVELS
from pretraining.common.atomic import write_text
from pretraining.common.batch import read_failures
from pretraining.common.errors import InputError
from pretraining.common.html_page import render_page
from pretraining.common.versions import VERSION

BATCH_PAGE = "registrations.html"
_FAILED, _UNKNOWN = "NO RESULT", "UNKNOWN"
"""Pairs that could not be registered, and those that an earlier version registered."""
_ORDER = (_FAILED, *reversed(LEVELS[1:]), _UNKNOWN, LEVELS[0])
_TEMPLATE = """
<h1>{{ title }}</h1>
<p>{{ counts }}</p>
{{ parts.table(columns, rows, numeric=(3, 4, 5, 6), badges=(1,), links=links) }}
<p class="faint">Worst first. The name of a pair leads to its page, with pictures and all numbers. Dice and the error of
landmarks (TRE) stand here if labels or landmarks were given. nnunet-anatomix {{ version }}</p>
"""


def write_batch_page(folder: Path, page: str) -> dict[str, int]:
    """Write ``registrations.html`` into the folder of a batch, unless it is there as it would be.

    Args:
        folder: Folder of the batch, with a subfolder per pair and ``failed.csv``.
        page: Name of the page in each subfolder.

    Returns:
        Verdict → number of pairs, worst first.
    """
    rows = [_Row(level=_FAILED, pair=name, why=reason) for name, reason in read_failures(folder).items()]
    failed = {row.pair for row in rows}
    for file in folder.glob(f"*/{REGISTRATION_FILE}"):
        if (name := file.parent.name) not in failed:
            rows.append(_read_row(file, name))
    rows.sort(key=lambda row: (_ORDER.index(row.level), row.pair))
    counts = Counter(row.level for row in rows)
    text = render_page(
        _TEMPLATE,
        title=f"{len(rows)} registrations",
        counts=", ".join(f"{counts[level]} {level}" for level in _ORDER if counts[level]),
        columns=["pair", "verdict", "why", "Dice before", "Dice", "TRE, mm", "seconds"],
        rows=[(row.pair, row.level, row.why, *row.numbers) for row in rows],
        links={file.parent.name: f"{file.parent.name}/{page}" for file in folder.glob(f"*/{page}")},
        version=VERSION,
    )
    page_file = folder / BATCH_PAGE
    if not page_file.is_file() or page_file.read_text(encoding="utf-8") != text:
        write_text(page_file, text)
    return {level: counts[level] for level in _ORDER if counts[level]}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One pair on the page."""

    level: str
    pair: str
    why: str
    numbers: tuple[str, ...] = ("", "", "", "")


def _read_row(file: Path, name: str) -> _Row:
    try:
        pair = read_registration(file)
    except InputError as reason:
        return _Row(level=_UNKNOWN, pair=name, why=str(reason))
    if pair.verdict not in LEVELS:
        return _Row(level=_UNKNOWN, pair=name, why="an earlier version registered it", numbers=_numbers(pair))
    return _Row(level=pair.verdict, pair=name, why=pair.reason, numbers=_numbers(pair))


def _numbers(pair: PairMetrics) -> tuple[str, ...]:
    row = pair_row(pair)
    values = ((row.dice_before, 3), (row.dice, 3), (row.tre_median_mm, 2), (row.seconds, 0))
    return tuple(f"{value:.{digits}f}" if isfinite(value) else "" for value, digits in values)
