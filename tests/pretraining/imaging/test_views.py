"""Windows show tissue, colours are consistent, and letters mark the patient's sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretraining.imaging.feature_colours import FeatureColours
from pretraining.imaging.views import (
    BONE_HU,
    LUNG_HU,
    SOFT_TISSUE_HU,
    VIEWS,
    apply_window,
    display_window,
    letter_sides,
)


def ct(tissue_hu: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    volume = np.full((20, 24, 16), -1000.0)
    volume[4:16, 4:20, 3:13] = rng.normal(tissue_hu, 20, (12, 16, 10))
    return volume


def test_a_ct_scan_is_known_by_its_air_and_shown_by_what_is_looked_at():
    assert display_window(ct(40)) == SOFT_TISSUE_HU
    assert display_window(ct(40), is_ct=True, structures=np.array([-800.0, -700.0])) == LUNG_HU
    assert display_window(ct(40), is_ct=True, structures=np.array([500.0])) == BONE_HU
    assert display_window(ct(40), is_ct=False) != SOFT_TISSUE_HU


@pytest.mark.parametrize("scale", [1.0, 1e-4, 3e6])
def test_an_mr_scan_is_shown_by_its_content_and_not_by_one_hot_voxel(scale):
    volume = np.zeros((20, 24, 16))
    volume[4:16, 4:20, 3:13] = np.random.default_rng(0).normal(100, 10, (12, 16, 10))
    volume[0, 0, 0] = 1e5
    low, high = display_window(volume * scale)
    assert low == 0 and 110 * scale < high < 160 * scale
    shown = apply_window(volume * scale, (low, high))
    assert shown.min() == 0 and shown.max() == 1 and 0.5 < shown[4:16, 4:20, 3:13].mean() < 1


def test_nothing_to_see_is_black():
    assert (apply_window(np.full((3, 4, 5), 7.0), display_window(np.full((3, 4, 5), 7.0))) == 0).all()
    assert display_window(np.full((3, 4, 5), np.nan)) == (0.0, 1.0)
    assert (apply_window(np.full((2, 2, 2), np.nan), (0.0, 1.0)) == 0).all()


def test_sides_have_letters_of_opposite_meaning():
    from matplotlib.figure import Figure

    opposite = {"R": "L", "A": "P", "S": "I", "L": "R", "P": "A", "I": "S"}
    for view, (_, (left, right, above, below)) in VIEWS.items():
        assert (opposite[left], opposite[above]) == (right, below)
        axis = Figure().subplots()
        letter_sides(axis, view)
        x = {text.get_text(): text.get_position()[0] for text in axis.texts}
        assert x[left] < 0.5 < x[right]


def test_colours_of_features_do_not_depend_on_the_slice():
    features = torch.randn((5, 6, 7, 8), generator=torch.Generator().manual_seed(0))
    colours = FeatureColours(features.flatten(1))
    both = colours(features[:, :, :, 3])
    assert both.shape == (3, 6, 7) and both.min() >= 0 and both.max() <= 1
    assert torch.equal(colours(features[:, :3, :, 3]), both[:, :3])
    few = FeatureColours(features[:2].flatten(1))(features[:2, :, :, 0])
    assert few.shape == (3, 6, 7) and (few[2] == 0).all()
