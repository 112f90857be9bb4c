"""Tests of the summary of a batch of registrations."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from nnunet_anatomix.registration.summary import markdown, read_registrations, summarize, write_summary
from pretraining.common.errors import InputError

METHODS = ("convex", "ants")


def report(number: int, method: str) -> dict:
    rng = np.random.default_rng(100 * number + len(method))
    before = {label: float(rng.uniform(0.2, 0.4)) for label in ("1", "7")}
    return {
        "pair": f"pair {number}",
        "method": method,
        "seconds": 1.0 + number,
        "anything else": [1, 2],
        "metrics": {
            "dice": {label: dice + 0.4 for label, dice in before.items()},
            "dice_before": before,
            "hd95_mm": {"1": 2.0 + number, "7": None},
            "tre_mm": [1.0, 2.0, 9.0 + number],
            "tre_before_mm": [5.0],
            "folded_share": 0.00002,
            "inverse_error_mm": 0.1,
        },
    }


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).mkdir()
    (folder / name / "registration.json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def batch(tmp_path) -> Path:
    for number in range(4):
        for method in METHODS:
            write(tmp_path, f"{number}_{method}", report(number, method))
    return tmp_path


def test_means_over_labels_and_pairs(batch):
    summaries = summarize(read_registrations(batch))
    assert [one.method for one in summaries] == sorted(METHODS)
    for one in summaries:
        metrics = [report(number, one.method)["metrics"] for number in range(4)]
        assert (
            one.pairs == 4 and one.seconds == 2.5 and one.hd95_mm == 3.5 and one.folded_share == pytest.approx(0.00002)
        )
        assert one.dice == pytest.approx(np.mean([[*each["dice"].values()] for each in metrics]))
        assert one.dice_before == pytest.approx(one.dice - 0.4)
        assert one.tre_median_mm == 2 and one.tre_median_before_mm == 5
        assert 0 < one.dice_std < 0.1 and one.dice_low < one.dice < one.dice_high


def test_a_pair_counts_once_whatever_its_labels(tmp_path):
    many, one = report(0, "a"), report(1, "a")
    many["metrics"]["dice"], one["metrics"]["dice"] = (
        {str(label): 0.5 for label in range(9)},
        {"1": 1.0, "2": float("nan")},
    )
    write(tmp_path, "many", many)
    write(tmp_path, "one", one)
    (summary,) = summarize(read_registrations(tmp_path))
    assert summary.dice == 0.75


def test_what_was_not_measured_is_a_dash(tmp_path):
    write(tmp_path, "a", {"pair": "a", "method": "nan-registration", "metrics": {"folded_share": 0.5}, "seconds": 3})
    (summary,) = summarize(read_registrations(tmp_path))
    assert np.isnan([summary.dice, summary.dice_std, summary.hd95_mm, summary.tre_median_mm]).all()
    line = " ".join(markdown([summary]).splitlines()[-1].split())
    assert line == "| nan-registration | 1 | – | – (–) | – to – | – | – | – | 50.000 | – | 3.0 |"
    write_summary(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "pairs.csv",
        "summary.csv",
        "summary.md",
    ]  # there is no Dice to draw


def test_the_summary_is_written(batch):
    text = write_summary(batch)
    assert (batch / "summary.md").read_text(encoding="utf-8") == text
    pairs = read_registrations(batch)
    with (batch / "pairs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["pair"], line["method"]) for line in lines] == [(pair.pair, pair.method) for pair in pairs]
    assert [float(line["dice"]) for line in lines] == pytest.approx(
        [np.mean([*pair.dice.values()]) for pair in pairs], rel=1e-5
    )
    with (batch / "summary.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["dice_std"]) for line in lines] == pytest.approx(
        [one.dice_std for one in summarize(pairs)], rel=1e-5
    )
    assert float(lines[0]["folded_share"]) == 0.00002
    blue = np.abs(imread(batch / "dice.png")[..., :3].astype(int) - (31, 119, 180)).max(axis=-1) < 30
    assert np.ptp(np.argwhere(blue)[:, 1]) > 200  # boxes of both methods


def test_again_is_the_same(batch):
    assert write_summary(batch) == write_summary(batch)


@pytest.mark.parametrize(
    "content",
    [
        '{"pair',
        "[]",
        {"method": "a"},
        {"pair": "a"},
        report(0, "a") | {"metrics": {"dice": {"1": "high"}}},
        report(0, "a") | {"metrics": 3},
    ],
)
def test_a_damaged_report_is_one_line(batch, content):
    write(batch, "damaged", content)
    with pytest.raises(InputError, match=r"damaged/registration\.json is not a valid registration report") as refused:
        write_summary(batch)
    assert "\n" not in str(refused.value) and not (batch / "pairs.csv").exists()


def test_a_folder_without_registrations_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match="no registrations in"):
            read_registrations(folder)


def test_unfinished_registrations_are_named(batch, caplog):
    (batch / "unfinished").mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(read_registrations(batch)) == 8
    assert "1 folders without registration.json are ignored: unfinished" in caplog.text
