"""Local correlation: equal to its definition, its gradient to differences, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig, convex_adam
from nnunet_anatomix.registration.solvers.local_correlation import LocalCorrelation
from nnunet_anatomix.registration.solvers.refine import smooth
from nnunet_anatomix.registration.warp import identity, warp

SHAPE = (14, 12, 13)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(channels: int, seed: int, shape=SHAPE) -> Tensor:
    return smooth(noise(channels, *shape, seed=seed))


def window_mean(values: np.ndarray) -> np.ndarray:
    for axis in range(3):
        for _ in range(3):
            values = ndimage.uniform_filter1d(values, 3, axis=axis, mode="nearest")
    return values


def correlations(fixed: np.ndarray, moving: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The definition, without floor."""
    inside = window_mean(weight)

    def mean(values: np.ndarray) -> np.ndarray:
        return window_mean(weight * values) / inside

    covariance = mean(fixed * moving) - mean(fixed) * mean(moving)
    return covariance / np.sqrt((mean(fixed**2) - mean(fixed) ** 2) * (mean(moving**2) - mean(moving) ** 2))


def test_it_is_one_minus_the_mean_local_correlation():
    fixed, moving = blobs(3, 0), blobs(3, 1)
    weight = (noise(*SHAPE, seed=2) > -1).float()
    value, _ = LocalCorrelation(fixed, moving, weight).gradient(identity(SHAPE))
    expected = [
        1 - (correlations(*pair, weight.double().numpy()) * weight.numpy()).sum() / weight.sum().item()
        for pair in zip(fixed.double().numpy(), moving.double().numpy(), strict=True)
    ]
    assert value == pytest.approx(4 * np.mean(expected), rel=0.01)


@pytest.mark.parametrize("beyond", ["border", "zeros"])
def test_its_gradient_is_that_of_finite_differences(beyond):
    term = LocalCorrelation(blobs(3, 0), blobs(3, 1), (noise(*SHAPE, seed=2) > -1).float(), beyond=beyond)
    position = identity(SHAPE) + 2 * smooth(noise(3, *SHAPE, seed=3))
    _, gradient = term.gradient(position)
    for seed in range(4, 7):
        direction = smooth(noise(3, *SHAPE, seed=seed))
        step = 0.02
        found = (term.gradient(position + step * direction)[0] - term.gradient(position - step * direction)[0]) / 2
        assert (gradient * direction).sum().item() == pytest.approx(found / step, rel=0.06, abs=1e-3)


def test_a_bias_field_and_an_offset_hardly_matter():
    image = blobs(1, 0)
    field = torch.linspace(0.5, 2, SHAPE[0]).view(-1, 1, 1)
    value, _ = LocalCorrelation(image, field * image + 3).gradient(identity(SHAPE))
    assert value < 0.1
    assert LocalCorrelation(image, -image).gradient(identity(SHAPE))[0] > 7.5


def test_voxels_without_weight_do_not_count():
    fixed, moving, known = blobs(2, 0), blobs(2, 1), torch.ones(SHAPE)
    known[:5] = 0
    position = identity(SHAPE)
    value, gradient = LocalCorrelation(fixed, moving, known, known).gradient(position)
    assert (gradient[:, :5] == 0).all() and (gradient[:, 5:] != 0).any()
    other = moving.clone()
    other[:, :5] += 10
    assert LocalCorrelation(fixed, other, known, known).gradient(position)[0] == pytest.approx(value, abs=1e-4)


def test_constant_channels_do_not_count():
    fixed, moving, constant = blobs(2, 0), blobs(2, 1), torch.full((1, *SHAPE), 0.3)
    position = identity(SHAPE)
    value, gradient = LocalCorrelation(fixed, moving).gradient(position)
    with_one = LocalCorrelation(torch.cat([fixed, constant]), torch.cat([moving, 0 * constant])).gradient(position)
    assert with_one[0] == pytest.approx(value) and torch.equal(with_one[1], gradient)
    value, gradient = LocalCorrelation(constant, constant).gradient(position)
    assert value == 0 and (gradient == 0).all()


def test_scans_that_differ_by_a_bias_field_are_registered_better():
    shape = (32, 32, 32)
    fixed = 3 * blobs(2, 0, shape)
    truth = 3 * smooth(smooth(noise(3, *shape, seed=1)))
    moving = warp(fixed, truth, beyond="border") * torch.linspace(0.3, 3, 32).view(-1, 1, 1)
    errors = {}
    for dissimilarity in ("difference", "correlation"):
        config = ConvexAdamConfig(grid_spacing=4, reach=1, dissimilarity=dissimilarity)
        found = convex_adam(fixed, moving, shape, config)
        # At p the moving scan shows what lay at p + truth(p), so the two displacements cancel.
        rest = found + warp(truth, found, beyond="border")
        errors[dissimilarity] = rest[:, 6:-6, 6:-6, 6:-6].norm(dim=0).mean().item()
    assert errors["correlation"] < 0.7 * errors["difference"] < truth.norm(dim=0).mean()
