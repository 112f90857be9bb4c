"""Each artefact equals MONAI's or TorchIO's transform, and drawn parameters are in their ranges."""

import dataclasses

import numpy as np
import pytest
import torch
import torchio
from monai import transforms as monai
from scipy import ndimage

from pretraining.common.random import sample_generator
from pretraining.engine.artefacts.bias_field import (
    BiasField,
    BiasFieldConfig,
    apply_bias_field,
    sample_bias_field,
    term_degrees,
)
from pretraining.engine.artefacts.blur import Blur, BlurConfig, apply_blur, sample_blur
from pretraining.engine.artefacts.gamma import Gamma, GammaConfig, apply_gamma, sample_gamma
from pretraining.engine.artefacts.gibbs import Gibbs, GibbsConfig, apply_gibbs, sample_gibbs
from pretraining.engine.artefacts.log_gamma import LogGamma, LogGammaConfig, apply_log_gamma, sample_log_gamma
from pretraining.engine.artefacts.low_resolution import (
    LowResolution,
    LowResolutionConfig,
    apply_low_resolution,
    sample_low_resolution,
)
from pretraining.engine.artefacts.motion import Motion, MotionConfig, apply_motion, sample_motion
from pretraining.engine.artefacts.noise import Noise, NoiseConfig, apply_noise, sample_noise
from pretraining.engine.artefacts.sharpening import Sharpening, SharpeningConfig, apply_sharpening, sample_sharpening
from pretraining.engine.artefacts.smoothing import Smoothing, SmoothingConfig, apply_smoothing, sample_smoothing
from pretraining.engine.artefacts.spike import Spike, SpikeConfig, apply_spike, sample_spike

SHAPE = (14, 19, 11)

PAIRS = [
    pytest.param(BiasFieldConfig(probability=1.0), sample_bias_field, apply_bias_field, id="bias_field"),
    pytest.param(BlurConfig(probability=1.0), sample_blur, apply_blur, id="blur"),
    pytest.param(GammaConfig(probability=1.0), sample_gamma, apply_gamma, id="gamma"),
    pytest.param(GibbsConfig(probability=1.0, alpha=(0.3, 0.6)), sample_gibbs, apply_gibbs, id="gibbs"),
    pytest.param(LogGammaConfig(probability=1.0), sample_log_gamma, apply_log_gamma, id="log_gamma"),
    pytest.param(
        LowResolutionConfig(probability=1.0), sample_low_resolution, apply_low_resolution, id="low_resolution"
    ),
    pytest.param(MotionConfig(probability=1.0), sample_motion, apply_motion, id="motion"),
    pytest.param(NoiseConfig(probability=1.0), sample_noise, apply_noise, id="noise"),
    pytest.param(SharpeningConfig(probability=1.0), sample_sharpening, apply_sharpening, id="sharpening"),
    pytest.param(SmoothingConfig(probability=1.0), sample_smoothing, apply_smoothing, id="smoothing"),
    pytest.param(SpikeConfig(probability=1.0), sample_spike, apply_spike, id="spike"),
]


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


def close(result: torch.Tensor, expected) -> None:
    torch.testing.assert_close(result, torch.as_tensor(np.asarray(expected)).float(), atol=1e-4, rtol=1e-4)


def by_torchio(transform, volume: torch.Tensor) -> torch.Tensor:
    return transform(torchio.ScalarImage(tensor=volume[None])).data[0]


def by_monai(transform, volume: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(transform(volume[None])))[0].float()


def test_bias_field_equals_monai(volume):
    params = sample_bias_field(BiasFieldConfig(probability=1.0, coefficients=(-0.5, 0.5)), sample_generator(0, 0))
    transform = monai.RandBiasField(prob=1.0, degree=3)
    transform._do_transform, transform._coeff = True, list(params.coefficients)
    close(apply_bias_field(volume, params), np.asarray(transform(volume[None], randomize=False))[0])


def test_bias_field_has_as_many_terms_as_monai():
    assert len(term_degrees(3)) == 20 and term_degrees(1) == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]


def test_constant_bias_field_is_a_factor(volume):
    params = BiasField(degree=1, coefficients=(0.2, 0.0, 0.0, 0.0))
    torch.testing.assert_close(apply_bias_field(volume, params), volume * np.exp(0.2))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_gamma_equals_monai(volume, exponent):
    close(
        apply_gamma(volume * 3 - 1, Gamma(exponent=exponent)), by_monai(monai.AdjustContrast(exponent), volume * 3 - 1)
    )


def test_gamma_leaves_a_constant_volume_finite():
    assert apply_gamma(torch.full(SHAPE, 0.3), Gamma(exponent=2.0)).isfinite().all()


@pytest.mark.parametrize("sigma", [(0.1, 0.2, 0.333), (1.0, 0.05, 2.5)])
def test_smoothing_equals_monai(volume, sigma):
    close(apply_smoothing(volume, Smoothing(sigma_vox=sigma)), by_monai(monai.GaussianSmooth(sigma=sigma), volume))


def test_smoothing_by_nothing_and_by_more_than_the_volume(volume):
    assert torch.equal(apply_smoothing(volume, Smoothing(sigma_vox=(0.0, 0.0, 0.0))), volume)
    assert apply_smoothing(volume, Smoothing(sigma_vox=(9.0, 0.0, 9.0))).isfinite().all()


@pytest.mark.parametrize("shape", [SHAPE, (12, 10, 16)])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.333, 0.7])
def test_gibbs_equals_monai(shape, alpha):
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    close(apply_gibbs(volume, Gibbs(alpha=alpha)), by_monai(monai.GibbsNoise(alpha), volume))


@pytest.mark.parametrize("shape", [SHAPE, (12, 10, 16)])
@pytest.mark.parametrize("position", [(0.5, 0.5, 0.5), (0.1, 0.9, 0.2), (0.6, 0.3, 0.95), (0.0, 0.0, 0.0)])
def test_spike_equals_monai(shape, position):
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    location = tuple(int(share * size) for share, size in zip(position, shape, strict=True))
    mean_log = np.log(np.abs(np.fft.fftn(volume.numpy())) + 1e-10).mean()
    transform = monai.KSpaceSpikeNoise(location, k_intensity=float(2.6 * mean_log))
    close(apply_spike(volume, Spike(position=position, strength=2.6)), by_monai(transform, volume))


def test_sharpening_equals_monai(volume):
    first, second = (0.6, 0.9, 0.75), (0.5, 0.6, 0.7)
    expected = by_monai(monai.GaussianSharpen(sigma1=first, sigma2=second, alpha=20.0), volume)
    close(apply_sharpening(volume, Sharpening(sigma1_vox=first, sigma2_vox=second, strength=20.0)), expected)


@pytest.mark.parametrize("zoom", [0.5, 0.73, 1.0])
def test_low_resolution_equals_monai(volume, zoom):
    transform = monai.RandSimulateLowResolution(
        prob=1.0, downsample_mode="nearest-exact", upsample_mode="trilinear", zoom_range=(zoom, zoom)
    )
    close(apply_low_resolution(volume, LowResolution(zoom=zoom)), by_monai(transform, volume))


@pytest.mark.parametrize("sigma", [(0.0, 0.1, 2.0), (1.3, 0.6, 0.9)])
def test_blur_equals_scipy_and_torchio(volume, sigma):
    close(apply_blur(volume, Blur(sigma_vox=sigma)), ndimage.gaussian_filter(volume.numpy().astype(np.float64), sigma))
    close(apply_blur(volume, Blur(sigma_vox=sigma)), by_torchio(torchio.Blur(sigma), volume))


def test_online_bias_field_equals_torchio():
    # TorchIO can't make fields for odd sides.
    volume = torch.rand((14, 20, 12), generator=torch.Generator().manual_seed(3))
    config = BiasFieldConfig(probability=1.0, coefficients=(-0.5, 0.5), basis="powers")
    params = sample_bias_field(config, sample_generator(0, 0))
    close(apply_bias_field(volume, params), by_torchio(torchio.BiasField(list(params.coefficients), 3), volume))


@pytest.mark.parametrize("log_exponent", [-0.4, 0.0, 0.3])
def test_log_gamma_equals_torchio(volume, log_exponent):
    shifted = volume * 2 - 0.5
    close(
        apply_log_gamma(shifted, LogGamma(log_exponent=log_exponent)),
        by_torchio(torchio.Gamma(float(np.exp(log_exponent))), shifted),
    )


@pytest.mark.parametrize("shape", [SHAPE, (12, 10, 16)])
@pytest.mark.parametrize("times", [(0.3, 0.7), (0.2, 0.4), (0.55, 0.9)])
def test_motion_equals_torchio(shape, times):
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(4))
    degrees, translation = (
        np.array([[3.0, -7.0, 9.0], [-2.0, 8.0, 4.0]]),
        np.array([[1.5, -2.2, 0.7], [0.3, 1.1, -3.4]]),
    )
    # TorchIO's x and y point the other way in ITK's frame: rotations about them and translations
    # along them change sign.
    flip = np.array([-1, -1, 1])
    params = Motion(
        rotations_deg=tuple(map(tuple, degrees * flip)),
        translations_vox=tuple(map(tuple, translation * flip)),
        times=times,
    )
    transform = torchio.Motion(
        degrees=degrees, translation=translation, times=np.array(times), image_interpolation="linear"
    )
    close(apply_motion(volume, params), by_torchio(transform, volume))


def test_movements_are_ordered_in_time():
    for index in range(50):
        params = sample_motion(MotionConfig(probability=1.0, movement_count=4), sample_generator(5, index))
        assert params.times[0] > 0 and params.times[-1] < 1 and list(params.times) == sorted(params.times)


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
    standard = dataclasses.replace(config, probability=type(config)().probability)
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
        (GibbsConfig(probability=1.0), sample_gibbs, lambda p: [p.alpha], 0.0, 0.333),
        (SpikeConfig(probability=1.0), sample_spike, lambda p: [p.strength / 2.5], 0.95, 1.1),
        (SharpeningConfig(probability=1.0), sample_sharpening, lambda p: p.sigma1_vox, 0.5, 1.0),
        (SharpeningConfig(probability=1.0), sample_sharpening, lambda p: [p.strength], 10.0, 30.0),
        (LowResolutionConfig(probability=1.0), sample_low_resolution, lambda p: [p.zoom], 0.5, 1.0),
        (BlurConfig(probability=1.0), sample_blur, lambda p: p.sigma_vox, 0.0, 2.0),
        (LogGammaConfig(probability=1.0), sample_log_gamma, lambda p: [p.log_exponent], -0.4, 0.4),
        (MotionConfig(probability=1.0), sample_motion, lambda p: np.ravel(p.rotations_deg), -10.0, 10.0),
        (MotionConfig(probability=1.0), sample_motion, lambda p: np.ravel(p.translations_vox), -10.0, 10.0),
        (SmoothingConfig(probability=1.0), sample_smoothing, lambda p: p.sigma_vox, 0.0, 0.333),
    ],
)
def test_strengths_are_uniform_in_their_published_ranges(config, sample, values, low, high):
    drawn = np.concatenate([values(sample(config, sample_generator(2, index))) for index in range(300)])
    assert low <= drawn.min() and drawn.max() <= high
    assert abs(drawn.mean() - (low + high) / 2) < 0.06 * (high - low)
    assert drawn.max() - drawn.min() > 0.95 * (high - low)
