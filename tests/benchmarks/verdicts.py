"""Measure what the verdict's thresholds are chosen from: pairs of known outcome.

``python -m tests.benchmarks.verdicts --data ../shared/data --out verdicts.csv`` adds the rows that
are missing, and prints the table. Descriptors are MIND-SSC alone, as by default.
"""

from __future__ import annotations

import argparse
import csv
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.verdict.criteria import CRITERIA
from nnunet_anatomix.registration.verdict.judge import judge
from nnunet_anatomix.registration.verdict.quality import measure_quality
from nnunet_anatomix.registration.writing import measure
from pretraining.common.errors import InputError
from pretraining.common.tables import csv_text, markdown_table
from tests.benchmarks.verdict_pairs import KnownPair, known_pairs

MEASURES = tuple(criterion.measure for criterion in CRITERIA)
COLUMNS = ("pair", "kind", "agreement_before", *MEASURES, "refused")


def measured(pair: KnownPair) -> dict[str, Any]:
    """Register one pair; one row."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"pair": pair.name, "kind": pair.kind}
    config = RegistrationConfig(init=pair.init, descriptors=DescriptorConfig(feature_weight=0))
    try:
        registration = register(pair.fixed, pair.moving, config=config, **pair.options)
    except InputError as reason:
        return row | {"refused": str(reason)}
    found = {**measure(registration), **asdict(measure_quality(registration))}
    return row | {name: "" if found[name] is None else found[name] for name in ("agreement_before", *MEASURES)}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of an earlier run; none if there was none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """One row per pair: what was measured, and the verdict of today's thresholds."""
    lines = []
    for row in rows:
        numbers = {name: float(row[name]) if row[name] else None for name in ("agreement_before", *MEASURES)}
        level = "refused" if row["refused"] else judge(numbers).level
        texts = [criterion.text(numbers[criterion.measure]) for criterion in CRITERIA]
        before = numbers["agreement_before"]
        lines.append([row["kind"], row["pair"], level, "–" if before is None else f"{before:.2f}", *texts])
    names = ["overlap", "agreement", "left over", "stretch", "sdLogJ", "folds", "inverse error"]
    return markdown_table(["kind", "pair", "verdict", "agreement before", *names], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", default="", help="only pairs whose name contains this")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for pair in known_pairs(arguments.data):
        rows = read_rows(arguments.out)
        if arguments.pairs not in pair.name or any(row["pair"] == pair.name for row in rows):
            continue
        row = measured(pair)
        with arguments.out.open("a", newline="") as file:
            file.write(csv_text([] if rows else COLUMNS, [[row[column] for column in COLUMNS]]))
        logging.info("%s", row)
    order = {pair: number for number, pair in enumerate(("good", "hard", "bad"))}
    logging.info("%s", table(sorted(read_rows(arguments.out), key=lambda row: order[row["kind"]])))


if __name__ == "__main__":
    main()
