"""Each artefact, given its parameters, equals MONAI's (or TorchIO's) deterministic transform; what is drawn follows the ranges."""

import numpy as np
import pytest
import torch
from monai import transforms as monai

from pretraining.engine.artefacts.bias_field import BiasField, BiasFieldConfig, apply_bias_field, sample_bias_field, term_degrees
from pretraining.engine.artefacts.gamma import Gamma, GammaConfig, apply_gamma, sample_gamma
from pretraining.engine.artefacts.noise import Noise, NoiseConfig, apply_noise, sample_noise
from pretraining.engine.artefacts.smoothing import Smoothing, SmoothingConfig, apply_smoothing, sample_smoothing
from pretraining.engine.seeds import sample_generator

SHAPE = (14, 19, 11)

PAIRS = [
    pytest.param(BiasFieldConfig(probability=1.0), sample_bias_field, apply_bias_field, id="bias_field"),
    pytest.param(GammaConfig(probability=1.0), sample_gamma, apply_gamma, id="gamma"),
    pytest.param(NoiseConfig(probability=1.0), sample_noise, apply_noise, id="noise"),
    pytest.param(SmoothingConfig(probability=1.0), sample_smoothing, apply_smoothing, id="smoothing"),
]


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


def by_monai(transform, volume: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(transform(volume[None])))[0].float()


def test_bias_field_equals_monai(volume):
    params = sample_bias_field(BiasFieldConfig(probability=1.0, coefficients=(-0.5, 0.5)), sample_generator(0, 0))
    transform = monai.RandBiasField(prob=1.0, degree=3)
    transform._do_transform, transform._coeff = True, list(params.coefficients)
    expected = torch.as_tensor(np.asarray(transform(volume[None], randomize=False)))[0]
    torch.testing.assert_close(apply_bias_field(volume, params), expected.float(), atol=1e-4, rtol=1e-4)


def test_bias_field_has_as_many_terms_as_monai():
    assert len(term_degrees(3)) == 20 and term_degrees(1) == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]


def test_constant_bias_field_is_a_factor(volume):
    params = BiasField(degree=1, coefficients=(0.2, 0.0, 0.0, 0.0))
    torch.testing.assert_close(apply_bias_field(volume, params), volume * np.exp(0.2))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_gamma_equals_monai(volume, exponent):
    expected = by_monai(monai.AdjustContrast(exponent), volume * 3 - 1)
    torch.testing.assert_close(apply_gamma(volume * 3 - 1, Gamma(exponent=exponent)), expected, atol=1e-4, rtol=1e-4)


def test_gamma_leaves_a_constant_volume_finite():
    assert apply_gamma(torch.full(SHAPE, 0.3), Gamma(exponent=2.0)).isfinite().all()


@pytest.mark.parametrize("sigma", [(0.1, 0.2, 0.333), (1.0, 0.05, 2.5)])
def test_smoothing_equals_monai(volume, sigma):
    expected = by_monai(monai.GaussianSmooth(sigma=sigma), volume)
    torch.testing.assert_close(apply_smoothing(volume, Smoothing(sigma_vox=sigma)), expected, atol=1e-4, rtol=1e-4)


def test_smoothing_by_nothing_and_by_more_than_the_volume(volume):
    assert torch.equal(apply_smoothing(volume, Smoothing(sigma_vox=(0.0, 0.0, 0.0))), volume)
    assert apply_smoothing(volume, Smoothing(sigma_vox=(9.0, 0.0, 9.0))).isfinite().all()


def test_noise_has_the_std_asked_for():
    volume = torch.full((40, 30, 50), 0.5)
    added = apply_noise(volume, Noise(std=0.2, noise_seed=3)) - volume
    assert abs(added.std() - 0.2) < 0.005 and abs(added.mean()) < 0.005


@pytest.mark.parametrize("config, sample, apply", PAIRS)
def test_apply_is_pure_and_sample_decides(config, sample, apply, volume):
    before, untouched = torch.get_rng_state(), volume.clone()
    params = sample(config, sample_generator(0, 0))
    result = apply(volume, params)
    assert torch.equal(result, apply(volume, params)) and torch.equal(volume, untouched)
    assert result.shape == volume.shape and result.dtype == torch.float32 and result.isfinite().all()
    assert torch.equal(torch.get_rng_state(), before)
    other = sample(config, sample_generator(0, 1))
    assert params == sample(config, sample_generator(0, 0)) != other
    assert not torch.equal(result, apply(volume, other))


@pytest.mark.parametrize("config, sample, apply", PAIRS)
def test_share_of_views_with_the_artefact(config, sample, apply):
    standard = type(config)()
    happened = [sample(standard, sample_generator(1, index)) is not None for index in range(400)]
    assert abs(np.mean(happened) - standard.probability) < 0.08
    assert sample(type(config)(probability=0.0), sample_generator(0, 0)) is None
    with pytest.raises(ValueError):
        type(config)(probability=1.5)


@pytest.mark.parametrize(
    "config, sample, values, low, high",
    [
        (BiasFieldConfig(probability=1.0), sample_bias_field, lambda p: p.coefficients, 0.0, 0.075),
        (GammaConfig(probability=1.0), sample_gamma, lambda p: [p.exponent], 0.5, 2.0),
        (NoiseConfig(probability=1.0), sample_noise, lambda p: [p.std], 0.0, 0.25),
        (SmoothingConfig(probability=1.0), sample_smoothing, lambda p: p.sigma_vox, 0.0, 0.333),
    ],
    ids=["bias_field", "gamma", "noise", "smoothing"],
)
def test_strengths_are_uniform_in_their_published_ranges(config, sample, values, low, high):
    drawn = np.concatenate([values(sample(config, sample_generator(2, index))) for index in range(300)])
    assert low <= drawn.min() and drawn.max() <= high
    assert abs(drawn.mean() - (low + high) / 2) < 0.06 * (high - low)
    assert drawn.max() - drawn.min() > 0.95 * (high - low)
