"""Smooth noise equals linearly upsampled coarse Gaussian grids, a function of its parameters."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretraining.common.random import noise_generator, sample_generator
from pretraining.engine.fields import SmoothNoise, sample_smooth_noise, smooth_noise, smooth_noises

SHAPE = (20, 33, 17)


def test_noise_depends_on_its_parameters_alone():
    def noise(seed: int) -> torch.Tensor:
        return smooth_noise(SHAPE, SmoothNoise(scales_vox=(4.0, 8.0), stds=(1.0, 2.0), noise_seed=seed))

    before = torch.get_rng_state()
    assert torch.equal(noise(7), noise(7)) and not torch.equal(noise(7), noise(8))
    assert torch.equal(torch.get_rng_state(), before)


def test_equals_trilinear_interpolation_of_each_grid():
    params = SmoothNoise(scales_vox=(4.0, 9.5, 40.0), stds=(1.0, 0.5, 2.0), noise_seed=11)
    generator = noise_generator(11, "cpu")
    expected = torch.zeros(2, *SHAPE)
    for std, nodes in [(1.0, (5, 9, 5)), (0.5, (3, 4, 2)), (2.0, (1, 1, 1))]:
        coarse = torch.randn(2, *nodes, generator=generator) * std
        expected += F.interpolate(coarse[None], SHAPE, mode="trilinear", align_corners=True)[0]
    torch.testing.assert_close(smooth_noise(SHAPE, params, channels=2), expected, atol=1e-5, rtol=1e-5)


def test_fields_made_together_are_as_those_made_alone():
    """Test the path of accelerators, where the nodes of all scales come from one draw."""
    both = [
        SmoothNoise(scales_vox=(4.0, 9.5, 40.0), stds=stds, noise_seed=seed)
        for stds, seed in [((1.0, 0.5, 2.0), 11), ((3.0, 0, 1), 12)]
    ]
    found = smooth_noises(SHAPE, both, channels=2, device="cpu")
    for field, params in zip(found, both, strict=True):
        drawn = torch.randn(2 * (5 * 9 * 5 + 3 * 4 * 2 + 1), generator=noise_generator(params.noise_seed, "cpu"))
        expected = torch.zeros(2, *SHAPE)
        for std, nodes in zip(params.stds, [(5, 9, 5), (3, 4, 2), (1, 1, 1)], strict=True):
            coarse, drawn = drawn.tensor_split([2 * math.prod(nodes)])
            expected += F.interpolate(coarse.view(1, 2, *nodes) * std, SHAPE, mode="trilinear", align_corners=True)[0]
        torch.testing.assert_close(field, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(field, smooth_noises(SHAPE, [params], channels=2, device="cpu")[0])


def test_stds_are_drawn_per_scale_within_their_range():
    drawn = [sample_smooth_noise((8.0, 16.0, 32.0), 1.0, 5.0, sample_generator(0, index)) for index in range(200)]
    stds = torch.tensor([params.stds for params in drawn])
    assert stds.min() >= 1 and stds.max() <= 5
    assert (stds.mean(0) - 3).abs().max() < 0.3
    assert len({params.noise_seed for params in drawn}) == 200


@pytest.mark.parametrize("std", [0.5, 3.0])
def test_nodes_have_the_std_asked_for(std):
    values = smooth_noise((64, 64, 64), SmoothNoise(scales_vox=(1.0,), stds=(std,), noise_seed=0))
    assert abs(values.std() / std - 1) < 0.02 and abs(values.mean()) < 0.02 * std
