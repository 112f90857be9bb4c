"""Report of a study: tables and curve agree with the scores of the runs."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from skimage.io import imread

from nnunet_anatomix.study.report import RunScore, draw_curve, markdown, read_rows, summarize, write_report, write_rows


def rows() -> list[RunScore]:
    rng = np.random.default_rng(1)
    return [
        RunScore(
            start=start,
            shots=shots,
            seed=seed,
            case=f"case {number}",
            label=label,
            dice=level + 0.1 * shots + rng.uniform(0, 0.1),
        )
        for start, level in (("weights", 0.5), ("scratch", 0.1))
        for shots in (1, 3)
        for seed in (0, 4)
        for number in range(5)
        for label in ("front", "back")
    ]


def test_means_over_labels_seeds_and_subjects():
    for one in summarize(rows()):
        mine = [row for row in rows() if (row.start, row.shots) == (one.start, one.shots)]
        assert one.dice == pytest.approx(np.mean([row.dice for row in mine]))
        assert one.by_seed[4] == pytest.approx(np.mean([row.dice for row in mine if row.seed == 4]))
        assert one.by_label["front"] == pytest.approx(np.mean([row.dice for row in mine if row.label == "front"]))
        assert 0 < one.std < 0.05
    assert [one.shots for one in summarize(rows())] == [1, 1, 3, 3]


def test_a_structure_absent_everywhere_does_not_affect_the_mean():
    some = [RunScore(start="a", shots=1, seed=0, case=case, label="gone", dice=float("nan")) for case in "xy"]
    some += [RunScore(start="a", shots=1, seed=0, case=case, label="there", dice=0.5) for case in "xy"]
    (one,) = summarize(some)
    assert one.dice == 0.5 and np.isnan(one.by_label["gone"])


def test_rows_are_read_as_written(tmp_path):
    some = [RunScore(start="Gewichte, ü", shots=3, seed=1, case="a b", label='l"1', dice=0.1234), *rows()[:2]]
    write_rows(tmp_path / "rows.csv", some)
    again = read_rows(tmp_path / "rows.csv")
    assert again[0] == some[0] and [row.dice for row in again] == pytest.approx([row.dice for row in some], abs=5e-5)


def test_the_best_of_every_number_of_shots_is_bold_and_the_second_underlined():
    lines = markdown(summarize(rows()), "title", subjects=5).splitlines()
    assert "5 held-out scans" in lines[0]
    for line in lines[4:]:
        assert ("**" in line) is ("weights" in line) and ("<u>" in line) is ("scratch" in line)


def test_the_report_holds_table_cases_and_curve(tmp_path):
    text = write_report(tmp_path, rows(), "title")
    assert (tmp_path / "table.md").read_text() == text
    with (tmp_path / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["dice"]) for line in table] == pytest.approx([one.dice for one in summarize(rows())], abs=5e-5)
    assert set(table[0]) == {"start", "shots", "dice", "std", "seed_0", "seed_4", "front", "back"}
    assert len(read_rows(tmp_path / "cases.csv")) == len(rows())
    assert not list(tmp_path.glob("*partial*"))


def test_the_curve_shows_every_start(tmp_path):
    summaries = summarize(rows())
    draw_curve(tmp_path / "both.png", summaries, "title")
    draw_curve(tmp_path / "one.png", [one for one in summaries if one.start == "weights"], "title")
    both, one = imread(tmp_path / "both.png"), imread(tmp_path / "one.png")
    assert both.shape == one.shape and (both != one).any()
    orange = (np.abs(both[..., :3].astype(int) - (255, 127, 14)) < 30).all(-1)  # the second start's colour
    assert orange.sum() > 50
