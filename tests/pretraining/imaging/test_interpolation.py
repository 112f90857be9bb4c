"""Interpolation equals SciPy's, in each mode, beyond the border and with any thread count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from pretraining.imaging.interpolation import interpolate_at

SHAPE = (17, 13, 11)


def volume() -> Tensor:
    return torch.rand((2, *SHAPE), generator=torch.Generator().manual_seed(1))


def places(beyond_vox: float) -> Tensor:
    """Draw (3, 6, 5, 4) positions inside the volume and up to so many voxels outside."""
    share = torch.rand((3, 6, 5, 4), generator=torch.Generator().manual_seed(2))
    return share * (torch.tensor(SHAPE).view(3, 1, 1, 1) - 1 + 2 * beyond_vox) - beyond_vox


@pytest.mark.parametrize("mode, order", [("bilinear", 1), ("nearest", 0)])
@pytest.mark.parametrize("beyond, theirs", [("zeros", "grid-constant"), ("border", "nearest")])
def test_values_are_those_of_scipy(mode, order, beyond, theirs):
    position = places(beyond_vox=3)
    found = interpolate_at(volume(), position, mode=mode, beyond=beyond).numpy()
    expected = [map_coordinates(channel, position.numpy(), order=order, mode=theirs) for channel in volume().numpy()]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_positions_may_be_one_tensor_for_each_axis():
    position = places(beyond_vox=1)
    assert torch.equal(interpolate_at(volume(), list(position)), interpolate_at(volume(), position))
    with pytest.raises(ValueError):
        interpolate_at(volume(), list(position)[:2])


def test_an_axis_of_one_voxel_is_constant():
    flat = volume()[:, :, :1]
    position = places(beyond_vox=0)
    position[1] = 0
    expected = [map_coordinates(channel, position.numpy(), order=1) for channel in flat.numpy()]
    np.testing.assert_allclose(interpolate_at(flat, position, beyond="border").numpy(), expected, atol=1e-5)


def test_threads_change_nothing(monkeypatch):
    position = places(beyond_vox=1)
    alone = interpolate_at(volume(), position)
    for threads in (2, 3, 4):  # the last does not divide 6
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(interpolate_at(volume(), position), alone)
