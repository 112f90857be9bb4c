"""Augmentation of Table 9: geometry, ranges, and properties that every result must have."""

from __future__ import annotations

import random
from dataclasses import fields

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from monai.transforms import AdjustContrast, GaussianSharpen, GaussianSmooth, GibbsNoise, RandBiasField
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.augmentation.affine import AffineWarp, sample_affine, warp_affine
from nnunet_anatomix.finetuning.augmentation.config import AugmentationConfig
from nnunet_anatomix.finetuning.augmentation.intensity import (
    Artefacts,
    IntensityArtefacts,
    StandardizeChannels,
    apply_artefacts,
    sample_artefacts,
)
from nnunet_anatomix.finetuning.augmentation.pipeline import (
    channel_modalities,
    corrupt_previous_stage,
    finetuning_augmentation,
    initial_patch_size,
)
from pretraining.engine.artefacts.bias_field import BiasField, term_degrees
from pretraining.engine.artefacts.gamma import Gamma
from pretraining.engine.artefacts.gibbs import Gibbs
from pretraining.engine.artefacts.sharpening import Sharpening
from pretraining.engine.artefacts.smoothing import Smoothing

CONFIG = AugmentationConfig()
ALWAYS = AugmentationConfig(probability=1.0)
PATCH, ISOTROPIC = (20, 26, 23), (1.0, 1.0, 1.0)


def sample(seed: int, config: AugmentationConfig = ALWAYS, modalities=("mr", "ct")) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shape = initial_patch_size(PATCH)
    image, labels = torch.randn(len(modalities), *shape), torch.randint(-1, 4, (1, *shape), dtype=torch.int16)
    np.random.seed(seed)  # noqa: NPY002
    transform = finetuning_augmentation(config, PATCH, (2.0, 1.0, 1.0), modalities, RemoveLabelTansform(-1, 0))
    return transform(image=image, segmentation=labels)


def test_augmented_patches_have_their_size_finite_values_and_valid_labels():
    for seed in range(12):
        out = sample(seed)
        assert out["image"].shape == (2, *PATCH) and out["segmentation"].shape == (1, *PATCH)
        assert type(out["image"]) is torch.Tensor and out["image"].isfinite().all()
        assert set(out["segmentation"].unique().tolist()) <= {0, 1, 2, 3} and out["segmentation"].dtype == torch.int16


def test_augmentation_depends_on_nnunets_seed_alone():
    assert torch.equal(sample(3)["image"], sample(3)["image"])
    assert not torch.equal(sample(3)["image"], sample(4)["image"])


def test_the_identity_warp_crops_the_centre():
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
    out = AffineWarp((28, 26, 30), (1.0, 2.0, 1.5), 45.0, (0.8, 1.2), 0.2, 0.1)(
        image=labels.float(), segmentation=labels
    )
    assert ((out["image"] > 3.5) == (out["segmentation"] == 7)).float().mean() > 0.97
    assert (out["segmentation"] == 7).any()


def test_rotation_acts_in_millimetres_not_on_the_grid():
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
    assert all(
        artefacts.bias_field is None and artefacts.gibbs is None and artefacts.gamma is not None for artefacts in drawn
    )


def test_artefacts_have_the_probability_and_ranges_of_table_9():
    rng = np.random.default_rng(2)
    drawn = [sample_artefacts(CONFIG, "mr", rng=rng) for _ in range(2000)]
    for field in fields(Artefacts):
        assert np.mean([getattr(artefacts, field.name) is not None for artefacts in drawn]) == pytest.approx(
            0.33, abs=0.04
        )
    exponents = [artefacts.gamma.exponent for artefacts in drawn if artefacts.gamma]
    assert 0.5 <= min(exponents) < 0.6 and 4.3 < max(exponents) <= 4.5
    assert all(0 <= artefacts.noise.std <= 0.1 for artefacts in drawn if artefacts.noise)
    sharpened = [artefacts.sharpening for artefacts in drawn if artefacts.sharpening]
    assert max(max(one.sigma1_vox) for one in sharpened) > 2.9 and max(max(one.sigma2_vox) for one in sharpened) <= 1.0


@pytest.mark.parametrize(
    ("drawn", "oracle"),
    [
        (Artefacts(gibbs=Gibbs(alpha=0.3)), GibbsNoise(0.3)),
        (Artefacts(gamma=Gamma(exponent=3.1)), AdjustContrast(3.1)),
        (Artefacts(smoothing=Smoothing(sigma_vox=(3.0, 0.0, 1.2))), GaussianSmooth((3.0, 0.0, 1.2))),
        (Artefacts(smoothing=Smoothing(sigma_vox=(0.1, 0.04, 0.0))), GaussianSmooth((0.1, 0.04, 0.0))),
        (
            Artefacts(sharpening=Sharpening(strength=12.0, sigma1_vox=(2.0, 0.3, 1.0), sigma2_vox=(0.5, 0.9, 0.1))),
            GaussianSharpen((2.0, 0.3, 1.0), (0.5, 0.9, 0.1), 12.0),
        ),
    ],
)
def test_artefacts_agree_with_monai(drawn, oracle):
    torch.manual_seed(0)
    image = torch.rand(12, 18, 10)
    torch.testing.assert_close(apply_artefacts(image, drawn), oracle(image[None]).as_tensor()[0], atol=1e-4, rtol=1e-4)


def test_the_bias_field_is_monais_for_equal_coefficients():
    image, field = torch.rand(12, 18, 10), RandBiasField(prob=1.0, coeff_range=(0.04, 0.04))
    terms = len(term_degrees(3))
    ours = apply_artefacts(image, Artefacts(bias_field=BiasField(degree=3, coefficients=(0.04,) * terms)))
    torch.testing.assert_close(ours, field(image[None]).as_tensor()[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_images_stay_finite(value):
    rng = np.random.default_rng(3)
    for _ in range(5):
        assert (
            apply_artefacts(torch.full((12, 14, 10), value), sample_artefacts(ALWAYS, "mr", rng=rng)).isfinite().all()
        )


def test_without_artefacts_the_image_is_unchanged():
    image = torch.rand(9, 8, 7)
    assert torch.equal(apply_artefacts(image, Artefacts()), image)


def test_each_channel_has_artefacts_of_its_own():
    twins = torch.rand(1, *PATCH).expand(2, -1, -1, -1).contiguous()
    np.random.seed(5)  # noqa: NPY002
    first, second = IntensityArtefacts(ALWAYS, ("mr", "mr"))(image=twins)["image"]
    assert not torch.allclose(first, second)


def test_standardized_channels_depend_neither_on_scale_nor_on_shift():
    image = torch.rand(2, *PATCH)
    first, again = (StandardizeChannels()(image=one)["image"] for one in (image, 40 * image - 7))
    torch.testing.assert_close(first, again, atol=1e-4, rtol=1e-4)
    spread, mean = torch.std_mean(first, dim=(1, 2, 3))
    torch.testing.assert_close((spread, mean), (torch.ones(2), torch.zeros(2)), atol=1e-4, rtol=1e-4)
    assert not StandardizeChannels()(image=torch.full((1, *PATCH), 3.0))["image"].any()


def test_patches_are_translated_only_if_a_channel_is_ct():
    for modalities, moves in ((("mr", "ct"), True), (("ct",), True), (("mr", "mr"), False)):
        warp = finetuning_augmentation(CONFIG, PATCH, ISOTROPIC, modalities, RemoveLabelTansform(-1, 0)).transforms[0]
        np.random.seed(6)  # noqa: NPY002
        assert bool(np.abs(warp.get_parameters()["translation_mm"]).max() > 0) is moves


def test_regions_and_ignored_voxels_are_as_in_stock_training():
    last = nnUNetTrainer.get_validation_transforms(None, regions=[(1, 2), (2,)], ignore_label=3)
    shape = initial_patch_size(PATCH)
    labels = torch.randint(0, 4, (1, *shape), dtype=torch.int16)
    np.random.seed(7)  # noqa: NPY002
    out = finetuning_augmentation(CONFIG, PATCH, ISOTROPIC, ("mr",), last)(
        image=torch.rand(1, *shape), segmentation=labels
    )["segmentation"].bool()
    whole, part, ignored = out
    assert out.shape == (3, *PATCH) and part.any() and ignored.any()
    assert not (part & ~whole).any() and not (ignored & whole).any()


def test_corners_beyond_the_scan_are_background_not_ignored():
    last = nnUNetTrainer.get_validation_transforms(None, ignore_label=3)
    labels = torch.full((1, *initial_patch_size(PATCH)), 3, dtype=torch.int16)
    np.random.seed(8)  # noqa: NPY002
    out = AffineWarp(PATCH, ISOTROPIC, 45.0, (1.2, 1.2), 0.2, 0.5)(image=labels.float(), segmentation=labels)
    warped = last(**out)["segmentation"]
    assert set(warped.unique().tolist()) == {0, 3}


def test_the_previous_stage_is_corrupted_and_the_image_is_not():
    image = torch.cat([torch.rand(1, *PATCH), torch.zeros(2, *PATCH)])
    image[1, 4:12, 4:12, 4:12] = image[2, 12:16, 12:20, 12:20] = 1
    changed = 0
    for seed in range(30):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        random.seed(seed)
        out = corrupt_previous_stage(2)(image=image.clone())["image"]
        assert torch.equal(out[0], image[0]) and set(out[1:].unique().tolist()) <= {0.0, 1.0}
        changed += not torch.equal(out, image)
    assert 5 < changed < 25


def test_modalities_follow_the_plan():
    assert channel_modalities(["CTNormalization", "RescaleTo01Normalization", "ZScoreNormalization"]) == (
        "ct",
        "mr",
        "mr",
    )
    assert CONFIG.foreground_share(("mr", "ct")) == 0.5 and CONFIG.foreground_share(("mr",)) == 0.33
