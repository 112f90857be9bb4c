"""Table 9: geometry, ranges, and what must never happen to an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from monai.transforms import GaussianSharpen, GaussianSmooth

from nnunet_anatomix.finetuning.affine_warp import AffineWarp, sample_affine, warp_affine
from nnunet_anatomix.finetuning.augmentation import AugmentationConfig, initial_patch_size, modalities_of, table9
from nnunet_anatomix.finetuning.intensity import Artefacts, apply_artefacts, sample_artefacts, smoothed

CONFIG = AugmentationConfig()
ALWAYS = AugmentationConfig(probability=1.0)
PATCH, ISOTROPIC = (20, 26, 23), (1.0, 1.0, 1.0)


def sample(seed: int, config: AugmentationConfig = ALWAYS, modalities=("mr", "ct")) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shape = initial_patch_size(PATCH)
    image, labels = torch.randn(len(modalities), *shape), torch.randint(-1, 4, (1, *shape), dtype=torch.int16)
    np.random.seed(seed)  # noqa: NPY002
    transform = table9(config, PATCH, (2.0, 1.0, 1.0), modalities, RemoveLabelTansform(-1, 0))
    return transform(image=image, segmentation=labels)


def test_patch_comes_out_in_size_finite_and_with_known_labels():
    for seed in range(12):
        out = sample(seed)
        assert out["image"].shape == (2, *PATCH) and out["segmentation"].shape == (1, *PATCH)
        assert type(out["image"]) is torch.Tensor and out["image"].isfinite().all()
        assert set(out["segmentation"].unique().tolist()) <= {0, 1, 2, 3} and out["segmentation"].dtype == torch.int16


def test_augmentation_depends_on_nnunets_seed_alone():
    assert torch.equal(sample(3)["image"], sample(3)["image"])
    assert not torch.equal(sample(3)["image"], sample(4)["image"])


def test_without_turning_the_middle_is_cut_out():
    volume = torch.rand(1, 30, 31, 33)
    out = warp_affine(volume, np.eye(3), (0, 0, 0), (10, 11, 13), ISOTROPIC, "bilinear")
    torch.testing.assert_close(out, volume[:, 10:20, 10:21, 10:23], atol=1e-4, rtol=1e-4)


def test_translation_is_in_millimetres():
    volume = torch.rand(1, 30, 30, 30)
    out = warp_affine(volume, np.eye(3), (6.0, -2.0, 0), (10, 10, 10), (3.0, 1.0, 0.5), "nearest")
    assert torch.equal(out, volume[:, 12:22, 8:18, 10:20])


def test_image_and_labels_are_warped_alike():
    labels = torch.zeros(1, 40, 36, 44, dtype=torch.int16)
    labels[:, 15:27, 12:25, 20:30] = 7
    np.random.seed(2)  # noqa: NPY002
    out = AffineWarp((28, 26, 30), (1.0, 2.0, 1.5), 45.0, (0.8, 1.2), 0.2, 0.1)(image=labels.float(), segmentation=labels)
    assert ((out["image"] > 3.5) == (out["segmentation"] == 7)).float().mean() > 0.97
    assert (out["segmentation"] == 7).any()


def test_a_quarter_turn_happens_in_space_not_on_the_grid():
    # 10 voxels of 1 mm along Y become 5 voxels of 2 mm along X.
    volume = torch.zeros(1, 21, 21, 21)
    volume[0, 10, 5:15, 10] = 1
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    x, _, z = warp_affine(volume, quarter, (0, 0, 0), (21, 21, 21), (2.0, 1.0, 1.0), "nearest")[0].nonzero().T
    assert len(x.unique()) == 5 and z.unique().tolist() == [10]


def test_affine_stays_in_its_ranges():
    rng = np.random.default_rng(0)
    determinants = [np.linalg.det(sample_affine(45.0, (0.8, 1.2), 0.2, rng=rng)) for _ in range(300)]
    assert min(determinants) > 0.8**3 * 0.7 and max(determinants) < 1.2**3 * 1.3
    assert np.allclose(sample_affine(0.0, (1.0, 1.0), 0.0, rng=rng), np.eye(3))


def test_ct_has_neither_bias_field_nor_gibbs_ringing():
    rng = np.random.default_rng(1)
    drawn = [sample_artefacts(ALWAYS, "ct", rng=rng) for _ in range(20)]
    assert all(artefacts.bias_seed is None and artefacts.gibbs_alpha is None and artefacts.gamma is not None for artefacts in drawn)


def test_artefacts_happen_as_often_and_as_strong_as_table_9_says():
    rng = np.random.default_rng(2)
    drawn = [sample_artefacts(CONFIG, "mr", rng=rng) for _ in range(2000)]
    for name in ("noise", "bias_seed", "gibbs_alpha", "gamma", "smoothing_sigma_vox", "sharpening"):
        assert np.mean([getattr(artefacts, name) is not None for artefacts in drawn]) == pytest.approx(0.33, abs=0.04)
    gammas = [artefacts.gamma for artefacts in drawn if artefacts.gamma]
    assert 0.5 <= min(gammas) < 0.6 and 4.3 < max(gammas) <= 4.5
    assert all(0 <= artefacts.noise[0] <= 0.1 for artefacts in drawn if artefacts.noise)


@pytest.mark.parametrize("sigma_vox", [(3.0, 0.0, 1.2), (0.1, 0.04, 0.0)])
def test_smoothing_agrees_with_monai(sigma_vox):
    image = torch.rand(1, 20, 9, 14)
    torch.testing.assert_close(smoothed(image, sigma_vox), GaussianSmooth(sigma_vox)(image).as_tensor())


def test_sharpening_agrees_with_monai():
    image, drawn = torch.rand(1, 12, 18, 10), (12.0, (2.0, 0.3, 1.0), (0.5, 0.9, 0.1))
    nothing = {"noise": None, "bias_seed": None, "gibbs_alpha": None, "gamma": None, "smoothing_sigma_vox": None}
    expected = GaussianSharpen(drawn[1], drawn[2], drawn[0])(image).as_tensor()
    torch.testing.assert_close(apply_artefacts(image, Artefacts(**nothing, sharpening=drawn), (0.0, 0.0)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_images_stay_finite(value):
    rng = np.random.default_rng(3)
    for _ in range(5):
        out = apply_artefacts(torch.full((1, 12, 14, 10), value), sample_artefacts(ALWAYS, "mr", rng=rng), (0.0, 0.075))
        assert out.isfinite().all()


def test_nothing_drawn_changes_nothing():
    nothing = Artefacts(noise=None, bias_seed=None, gibbs_alpha=None, gamma=None, smoothing_sigma_vox=None, sharpening=None)
    image = torch.rand(1, 9, 8, 7)
    assert torch.equal(apply_artefacts(image, nothing, (0.0, 0.075)), image)


def test_modalities_follow_the_plan():
    assert modalities_of(["CTNormalization", "RescaleTo01Normalization", "ZScoreNormalization"]) == ("ct", "mr", "mr")
    assert CONFIG.foreground_share(("mr", "ct")) == 0.5 and CONFIG.foreground_share(("mr",)) == 0.33
