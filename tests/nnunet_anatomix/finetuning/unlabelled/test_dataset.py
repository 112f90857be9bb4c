"""Draws of labelled and unlabelled scans."""

from __future__ import annotations

from collections import Counter

import pytest

from nnunet_anatomix.finetuning.unlabelled.dataset import draws


@pytest.mark.parametrize("labelled", [1, 3, 20])
@pytest.mark.parametrize("unlabelled", [0, 1, 8, 500])
def test_labelled_cases_are_at_least_half_and_all_are_drawn(labelled, unlabelled):
    cases = [f"c{number}" for number in range(labelled)]
    counts = Counter(draws(cases, {f"u{number}": 0.8 for number in range(unlabelled)}))
    assert len(counts) == labelled + unlabelled and len({counts[case] for case in cases}) == 1
    share = sum(counts[case] for case in cases) / counts.total()
    assert share >= 0.5 and (unlabelled >= labelled or share > 0.5)


def test_unlabelled_scans_are_drawn_by_their_weight():
    counts = Counter(draws(["a", "b", "c"], {"a": 0.4, "z": 0.8}))
    assert counts["unlabelled/a"] == 0.4 * counts["a"] and counts["unlabelled/z"] == 2 * counts["unlabelled/a"]
