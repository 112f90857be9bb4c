"""Appearance model: intensities belong to labels, and every view has finite values in [0, 1]."""

import numpy as np
import pytest
import torch

from pretraining.common.random import sample_generator
from pretraining.engine import appearance
from pretraining.engine.appearance import AppearanceConfig, apply_appearance, min_max, sample_appearance
from pretraining.engine.artefacts.bias_field import BiasFieldConfig
from pretraining.engine.mixture import MixtureConfig, apply_mixture, sample_mixture
from pretraining.engine.online import OnlineConfig, apply_online, sample_online

LABELS = torch.randint(0, 6, (24, 18, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_each_label_has_its_own_gaussian():
    params = sample_mixture(MixtureConfig(zero_background_probability=0.0), 6, sample_generator(0, 0))
    view = apply_mixture(LABELS, params)
    for label in range(6):
        values = view[label == LABELS]
        assert abs(values.mean() - params.means[label]) < 4 * params.stds[label] / len(values) ** 0.5
        assert abs(values.std() / params.stds[label] - 1) < 0.1


def test_zero_background_is_exactly_zero():
    params = sample_mixture(MixtureConfig(zero_background_probability=1.0), 6, sample_generator(0, 0))
    view = apply_mixture(LABELS, params)
    assert not view[LABELS == 0].any() and (view[LABELS == 1] != 0).all()


def test_mixtures_follow_their_ranges():
    drawn = [sample_mixture(MixtureConfig(), 30, sample_generator(1, index)) for index in range(400)]
    means, stds = np.array([params.means[1:] for params in drawn]), np.array([params.stds[1:] for params in drawn])
    assert means.min() >= 25 and means.max() <= 255 and abs(means.mean() - 140) < 3
    assert stds.min() >= 5 and stds.max() <= 20 and abs(stds.mean() - 12.5) < 0.3
    assert abs(np.mean([params.means[0] == 0 for params in drawn]) - 0.25) < 0.06


@pytest.mark.parametrize("index", range(12))
def test_views_fill_the_unit_range(index):
    generator = sample_generator(3, index)
    params = sample_appearance(AppearanceConfig(), 6, generator)
    variation = sample_online(OnlineConfig(), generator)
    view = apply_appearance(LABELS, params)
    labels, varied = apply_online(LABELS, (torch.stack([view, view]) * 255).to(torch.uint8), variation)
    assert labels.shape == LABELS.shape and labels.dtype == torch.uint8
    for result in (view, *varied):
        assert result.shape == LABELS.shape and result.dtype == torch.float32
        assert result.min() == 0 and abs(result.max() - 1) < 1e-6
        assert result.std() > 0.02
    assert torch.equal(view, apply_appearance(LABELS, params))


@pytest.mark.parametrize("bias", [1.0, 0.5])
def test_views_made_together_are_those_made_alone(bias):
    """Test the batched steps of a GPU on the CPU."""
    config = AppearanceConfig(bias_field=BiasFieldConfig(probability=bias))
    for index in range(6):
        looks = [sample_appearance(config, 6, sample_generator(index, view)) for view in range(2)]
        together = appearance._apply_batched(LABELS, looks)
        assert torch.equal(together, appearance.apply_appearances(LABELS, looks))
        assert torch.equal(together, torch.stack([apply_appearance(LABELS, look) for look in looks]))


def test_volumes_are_scaled_each_by_its_own_range():
    volumes = torch.stack(
        [torch.full((3, 4, 5), 7.0), torch.arange(60.0).view(3, 4, 5), torch.arange(60.0).view(3, 4, 5) / 3 - 9]
    )
    scaled = min_max(volumes)
    assert not scaled[0].any() and scaled[1:].amin() == 0 and scaled[1:].amax() == 1
    assert torch.equal(scaled, torch.stack([min_max(volume) for volume in volumes]))


def test_a_volume_of_nothing_but_black_background_stays_finite():
    nothing = torch.zeros(16, 16, 16, dtype=torch.uint8)
    config = AppearanceConfig(mixture=MixtureConfig(zero_background_probability=1.0))
    for index in range(5):
        assert apply_appearance(nothing, sample_appearance(config, 1, sample_generator(0, index))).isfinite().all()


@pytest.mark.parametrize("wrong", [{"mean": (3.0, 1.0)}, {"std": (-1.0, 1.0)}, {"zero_background_probability": 2.0}])
def test_impossible_mixtures_are_refused(wrong):
    with pytest.raises(ValueError):
        MixtureConfig(**wrong)
