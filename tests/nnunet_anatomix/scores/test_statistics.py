"""Dice of single cases and the uncertainty of their mean."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnunet_anatomix.scores.statistics import CaseDice, bootstrap_interval, bootstrap_std, read_case_dice, subject_means
from pretraining.common.errors import InputError


def summary(tmp_path, metrics: dict) -> object:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"metric_per_case": [{"prediction_file": "/a/b/case_1.nii.gz", "metrics": metrics}]}))
    return path


def test_labels_and_regions_are_named(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    path = summary(tmp_path, {"(1, 2)": {"Dice": 0.5}, "2": {"Dice": float("nan")}})
    whole, core = read_case_dice(path, {"labels": labels, "file_ending": ".nii.gz"})
    assert whole == CaseDice(case="case_1", label="whole", dice=0.5)
    assert core.label == "core" and np.isnan(core.dice)


@pytest.mark.parametrize("damage", ["missing", "torn", "other labels"])
def test_an_invalid_summary_is_refused(tmp_path, damage):
    path = summary(tmp_path, {"7": {"Dice": 1.0}})
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_text('{"metric_per')
    with pytest.raises(InputError, match="is not a summary of nnU-Net"):
        read_case_dice(path, {"labels": {"background": 0, "heart": 1}, "file_ending": ".nii.gz"})


def test_every_subject_has_equal_weight_and_absent_structures_are_ignored():
    means = subject_means({"a": [1.0, 0.0], "b": [0.25, float("nan"), 0.75], "c": [float("nan")]})
    np.testing.assert_allclose(means, [0.5, 0.5])


def test_the_bootstrapped_std_is_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).uniform(size=200)
    assert bootstrap_std(values) == pytest.approx(values.std() / np.sqrt(len(values)), rel=0.05)
    low, high = bootstrap_interval(values)
    assert (high - low) / (2 * 1.96) == pytest.approx(bootstrap_std(values), rel=0.05) and low < values.mean() < high


def test_the_bootstrap_is_reproducible_and_nan_for_one_subject():
    values = [0.1, 0.9, 0.4]
    assert bootstrap_std(values) == bootstrap_std(values)
    assert np.isnan(bootstrap_std([0.5])) and np.isnan(bootstrap_interval([0.5])).all()
    assert bootstrap_std([0.5, 0.5]) == 0
