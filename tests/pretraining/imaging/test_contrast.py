"""Tests of intensity windows: what leaves no contrast is refused, what cuts most is told."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.contrast import check_contrast


@pytest.fixture
def ct() -> sitk.Image:
    """Return three quarters of air, and soft tissue with some bone."""
    rng = np.random.default_rng(0)
    values = np.full((12, 12, 12), -1000.0, np.float32)
    values[:3] = rng.normal(40, 30, (3, 12, 12))
    values[0, :4] = 900
    return sitk.GetImageFromArray(values)


@pytest.mark.parametrize("window", [(1000, 2000), (-3000, -1000), (900, 901)])
def test_a_window_beside_the_intensities_is_refused(ct, window):
    with pytest.raises(InputError, match=r"a clip: .* leaves no contrast, .* -1000 to 900") as refused:
        check_contrast(ct, window, "a clip")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("window", [(400, 2000), (-999, -500), (2, 5)])
def test_a_window_that_cuts_most_of_the_body_is_told(ct, window, caplog):
    check_contrast(ct, window, "a clip")
    assert "a clip" in caplog.text and "of the scan's foreground" in caplog.text


@pytest.mark.parametrize("window", [None, (-450, 450), (-1000, 900), (-5000, 5000)])
def test_usual_windows_are_silent_though_most_voxels_are_air(ct, window, caplog):
    caplog.set_level(logging.INFO)
    check_contrast(ct, window, "a clip")
    assert not caplog.text
