"""Confidence per voxel and per scan."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from nnunet_anatomix.enlarging.confidence import expected_dice, join_network, vote_margin
from nnunet_anatomix.propagation.folder import FolderSettings
from nnunet_anatomix.propagation.propagate import Resources
from nnunet_anatomix.registration.descriptors import DescriptorConfig


def test_a_label_without_majority_has_no_confidence():
    agreement = np.array([0, 34, 50, 75, 100], np.uint8)
    assert vote_margin(agreement).tolist() == [0, 0, 0, 50, 100] and vote_margin(agreement).dtype == np.uint8


def test_a_network_that_agrees_raises_the_confidence_and_one_that_does_not_lowers_it():
    labels, confidence = np.array([1, 1, 2, 0], np.uint8), np.array([40, 40, 100, 0], np.uint8)
    joint, found = join_network(labels, confidence, np.array([1, 2, 0, 2], np.uint8))
    assert joint.tolist() == [1, 2, 0, 2]
    assert found.tolist() == [70, 30, 0, 50], "a certain vote of the atlases cancels the network's"


def settings(**changes) -> FolderSettings:
    descriptors = DescriptorConfig(feature_weight=0)
    return FolderSettings(preset="fast", fusion="local", descriptors=descriptors, resources=Resources(), **changes)


def record(difference: float = 0.02, agreement: float = 0.9) -> dict:
    return {"difference": difference, "agreement": agreement}


@pytest.mark.parametrize(
    ("difference", "expected"), [(0.01, 0.8), (0.02, 0.8), (0.021, 0.8 * 20 / 21), (0.03, 0), (nan, 0)]
)
def test_the_expected_dice_falls_with_the_difference_to_labelled_scans(difference, expected):
    measured = settings(usual_difference=0.02, usual_dice=0.8)
    assert expected_dice(record(difference), measured) == pytest.approx(expected)


def test_scans_on_which_atlases_disagree_are_left_out_and_without_leave_one_out_agreement_counts():
    assert expected_dice(record(agreement=0.5), settings(usual_difference=0.02, usual_dice=0.8)) == 0
    assert expected_dice(record(agreement=0.5), settings()) == 0
    assert expected_dice(record(agreement=0.9), settings()) == 0.9
