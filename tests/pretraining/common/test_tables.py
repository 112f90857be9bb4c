"""Tables can be parsed again and are readable in a terminal."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np

from pretraining.common.tables import csv_text, markdown_table, write_records


@dataclass
class Row:
    name: str
    dice: float
    count: int | None = None


def test_markdown_columns_are_aligned_and_cells_stay_cells():
    table = markdown_table(["name", "Dice"], [["weights", "0.5"], ["a|b\nc", 12345]])
    assert table == "| name    | Dice  |\n| ------- | ----- |\n| weights | 0.5   |\n| a\\|b c  | 12345 |\n"
    assert len({len(line) for line in table.splitlines()}) == 1


def test_a_table_without_rows_is_its_header():
    assert markdown_table(["a", "b"], []) == "| a   | b   |\n| --- | --- |\n"
    assert csv_text(["a", "b"], []) == "a,b\n"


def test_csv_is_read_back(tmp_path):
    rows = [Row("=a, b", 1 / 3, 7), Row('"quoted"\nname', np.float32(0.25)), Row("none", float("nan"), 10**9)]
    write_records(tmp_path / "table.csv", Row, rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        read = [
            Row(row["name"], float(row["dice"]), int(row["count"]) if row["count"] else None)
            for row in csv.DictReader(file)
        ]
    assert [row.name for row in read] == [row.name for row in rows] and [row.count for row in read] == [7, None, 10**9]
    np.testing.assert_allclose([row.dice for row in read], [row.dice for row in rows], atol=1e-6)


def test_all_digits_where_a_number_must_come_back_the_same():
    assert float(csv_text([], [[0.1 + 0.2]], digits=None)) == 0.1 + 0.2
