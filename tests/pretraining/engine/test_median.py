"""The median's selection network equals SciPy's median filter."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pretraining.engine import median
from pretraining.engine.median import majority_3x3x3, median_3x3x3


@pytest.mark.parametrize("shape", [(9, 13, 7), (2, 5, 3), (1, 1, 4)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_equals_scipy(shape, dtype):
    volume = torch.randint(0, 41, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert np.array_equal(median_3x3x3(volume).numpy(), ndimage.median_filter(volume.numpy(), 3))


@pytest.mark.parametrize("high", [2, 3, 256])
def test_equals_scipy_with_many_and_few_ties(high):
    volume = torch.randint(0, high, (24, 20, 22), generator=torch.Generator().manual_seed(high), dtype=torch.uint8)
    assert np.array_equal(median_3x3x3(volume).numpy(), ndimage.median_filter(volume.numpy(), 3))


def test_slabs_leave_no_seams(monkeypatch):
    volume = torch.randint(0, 9, (11, 6, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    whole = median_3x3x3(volume)
    for voxels in (1, 100, 250):
        monkeypatch.setattr(median, "CACHED_VOXELS", voxels)
        assert torch.equal(median_3x3x3(volume), whole)


def test_majority_is_the_median_of_a_mask():
    mask = torch.rand((12, 9, 15), generator=torch.Generator().manual_seed(2)) < 0.5
    assert np.array_equal(majority_3x3x3(mask).numpy(), ndimage.median_filter(mask.numpy().astype(np.uint8), 3) > 0)
