"""Page of a batch: all pairs with their verdicts, worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from nnunet_anatomix.registration.summary import REGISTRATION_FILE, PairMetrics, pair_row, read_registrations
from nnunet_anatomix.registration.verdict.judge import LEVELS
from pretraining.common.html_page import write_page
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


def write_batch_page(folder: Path, page: str, failures: Mapping[str, str]) -> dict[str, int]:
    """Write ``registrations.html`` into the folder of a batch.

    Args:
        folder: Folder of the batch, with a subfolder per pair.
        page: Name of the page in each subfolder.
        failures: Pair → reason, of the pairs that could not be registered.

    Returns:
        Verdict → number of pairs, worst first.

    Raises:
        InputError: If the report of a pair is damaged.
    """
    found = read_registrations(folder) if any(folder.glob(f"*/{REGISTRATION_FILE}")) else []
    pairs = [(pair.verdict or _UNKNOWN, pair.pair, pair) for pair in found if pair.pair not in failures]
    failed: list[tuple[str, str, PairMetrics | None]] = [(_FAILED, name, None) for name in failures]
    ordered = sorted([*pairs, *failed], key=lambda one: (_ORDER.index(one[0]), one[1]))
    counts = Counter(level for level, _, _ in ordered)
    write_page(
        folder / BATCH_PAGE,
        _TEMPLATE,
        title=f"{len(ordered)} registrations",
        counts=", ".join(f"{counts[level]} {level}" for level in _ORDER if counts[level]),
        columns=["pair", "verdict", "why", "Dice before", "Dice", "TRE, mm", "seconds"],
        rows=[
            (name, level, failures[name], "", "", "", "") if pair is None else (name, level, pair.reason, *_numbers(pair))
            for level, name, pair in ordered
        ],
        links={name: f"{name}/{page}" for _, name, pair in ordered if pair is not None},
        version=VERSION,
    )
    return {level: counts[level] for level in _ORDER if counts[level]}


def _numbers(pair: PairMetrics) -> list[str]:
    row = pair_row(pair)
    values = ((row.dice_before, 3), (row.dice, 3), (row.tre_median_mm, 2), (row.seconds, 0))
    return ["" if value != value else f"{value:.{digits}f}" for value, digits in values]
