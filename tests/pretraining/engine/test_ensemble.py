"""Algorithm 1: distributions of drawn parameters, and the meaning of labels."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from pretraining.common.random import sample_generator
from pretraining.engine.affine import AffineConfig, rotation_matrix, sample_affine, shear_matrix
from pretraining.engine.ensemble import EnsembleConfig, render_ensemble, sample_ensemble
from pretraining.engine.foreground import ForegroundConfig, apply_foreground, foreground_mask, sample_foreground
from pretraining.templates.procedural import procedural_bank

SHAPE = (32, 48, 40)


@pytest.fixture(scope="module")
def drawn():
    bank = procedural_bank(count=7)
    return [
        sample_ensemble(EnsembleConfig(), (128, 128, 128), bank, sample_generator(0, index)) for index in range(600)
    ]


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(count=8, seed=1)


def test_number_of_templates(drawn):
    counts = np.array([len(ensemble.templates) for ensemble in drawn])
    assert (counts.min(), counts.max()) == (20, 40) and abs(counts.mean() - 30) < 0.8
    assert {i for ensemble in drawn for i in ensemble.templates} == set(range(7))


def test_shares_of_foreground_and_envelope(drawn):
    masked = [ensemble.foreground for ensemble in drawn if ensemble.foreground is not None]
    assert abs(len(masked) / len(drawn) - 2 / 3) < 0.06
    assert abs(sum(mask.envelope_radius_vox is not None for mask in masked) / len(drawn) - 1 / 3) < 0.06
    assert {mask.envelope_radius_vox for mask in masked} == {None, 2, 3, 4}
    radii = [mask.radius_vox for mask in masked]
    assert (min(radii), max(radii)) == (48, 72) and abs(np.mean(radii) - 60) < 1
    centres = np.array([mask.centre_vox for mask in masked])
    assert (centres.min(), centres.max()) == (32, 96) and np.abs(centres.mean(0) - 64).max() < 3
    assert all(mask.warp.scales_vox == (8, 16, 32) for mask in masked)


def test_sphere_and_warp_scale_with_the_side():
    config = ForegroundConfig(probability=1.0)
    large, small = (sample_foreground(config, (side,) * 3, sample_generator(0, 4)) for side in (128, 64))
    assert small.radius_vox == large.radius_vox / 2
    assert small.centre_vox == tuple(c / 2 for c in large.centre_vox)
    assert small.warp.scales_vox == (4, 8, 16) and np.allclose(np.array(small.warp.stds) * 2, large.warp.stds)


def test_affine_maps_follow_their_ranges():
    matrices = np.stack([sample_affine(AffineConfig(), sample_generator(2, index)) for index in range(500)])
    # R·Shear has unit determinant, so the determinant is the product of the signed scales.
    determinants = np.linalg.det(matrices[:, :, :3])
    assert abs((determinants < 0).mean() - 0.5) < 0.08
    assert np.abs(determinants).min() >= 0.5**3 and np.abs(determinants).max() <= 1.5**3
    assert np.abs(matrices[:, :, 3]).max() <= 5 and matrices[:, :, 3].std() > 2.5


def test_rotations_and_shears():
    rotation = rotation_matrix([20.0, -130.0, 77.0])
    assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.isclose(np.linalg.det(rotation), 1)
    assert np.allclose(rotation_matrix([0.0, 0.0, 90.0]) @ [1, 0, 0], [0, 1, 0])
    assert np.array_equal(shear_matrix([1, 2, 3]), [[1, 1, 2], [0, 1, 3], [0, 0, 1]])


def test_labels_without_foreground(bank):
    config = EnsembleConfig(template_count=(5, 5), foreground=ForegroundConfig(probability=0.0), median=False)
    ensemble = sample_ensemble(config, SHAPE, bank, sample_generator(0, 0))
    labels = render_ensemble(ensemble, bank)
    assert labels.shape == SHAPE and labels.dtype == torch.uint8 and ensemble.label_count == 6
    # The last template lies on top of all others: it shows whole.
    last = dataclasses.replace(
        ensemble, templates=ensemble.templates[-1:], affines=ensemble.affines[-1:], bends=(None,)
    )
    assert torch.equal(labels == 5, render_ensemble(last, bank) == 1)
    assert labels.unique()[-1] == 5


def test_foreground_raises_labels_and_clears_the_outside(bank):
    labels = torch.randint(0, 5, SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = ForegroundConfig(probability=1.0, envelope_probability=0.0)
    params = sample_foreground(config, SHAPE, sample_generator(0, 1))
    mask = foreground_mask(SHAPE, params)
    assert 0.02 < mask.float().mean() < 0.98
    masked = apply_foreground(labels, params, envelope_label=9)
    assert torch.equal(masked[mask], labels[mask] + 1) and not masked[~mask].any()


def test_envelope_is_thin_and_has_its_own_label():
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    params = sample_foreground(
        ForegroundConfig(probability=1.0, envelope_probability=1.0), SHAPE, sample_generator(0, 2)
    )
    masked = apply_foreground(labels, params, envelope_label=9)
    assert masked.unique().tolist() == [0, 1, 9]
    assert 0 < (masked == 9).float().mean() < 0.6


def test_unwarped_foreground_is_the_sphere():
    config = ForegroundConfig(probability=1.0, warp_std_vox=(0.0, 0.0))
    shape = (64, 64, 64)
    params = sample_foreground(config, shape, sample_generator(0, 3))
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).reshape(3, -1).T
    sphere = (np.linalg.norm(grid - np.array(params.centre_vox), axis=1) <= params.radius_vox).reshape(shape)
    assert (foreground_mask(shape, params).numpy() != sphere).mean() < 0.005


def test_bank_of_one_template():
    bank = procedural_bank(count=1)
    ensemble = sample_ensemble(EnsembleConfig(), SHAPE, bank, sample_generator(0, 0))
    assert set(ensemble.templates) == {0}
    assert render_ensemble(ensemble, bank).any()


def test_a_draw_can_travel_to_another_process(bank):
    ensemble = sample_ensemble(EnsembleConfig(), SHAPE, bank, sample_generator(0, 0))
    assert pickle.loads(pickle.dumps(ensemble)).templates == ensemble.templates


@pytest.mark.parametrize(
    "wrong",
    [
        {"template_count": (0, 3)},
        {"template_count": (5, 4)},
        {"template_count": (20, 251)},
        {"placement": "centre"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        EnsembleConfig(**wrong)
