"""Ball dilation and the shell around a mask equal SciPy's morphology."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.morphology import ball

from pretraining.engine.morphology import dilate, shell


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_dilation_and_shell_equal_scipy(radius):
    noise = ndimage.gaussian_filter(np.random.default_rng(radius).normal(size=(22, 17, 25)), 2)
    mask = noise > 0.02
    dilated = ndimage.binary_dilation(mask, ball(radius))
    eroded = ndimage.binary_erosion(mask, ball(radius), border_value=1)
    assert np.array_equal(dilate(torch.from_numpy(mask)[None], radius)[0].numpy(), dilated)
    assert np.array_equal(shell(torch.from_numpy(mask), radius).numpy(), dilated & ~eroded)


def test_the_volumes_border_is_no_edge():
    assert not shell(torch.ones(6, 7, 8, dtype=torch.bool), 3).any()
