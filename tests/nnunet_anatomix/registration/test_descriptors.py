"""Intensities beside MIND-SSC: their weight follows how well two scans agree in them."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import (
    DescriptorConfig,
    Scan,
    descriptors,
    find_foreground,
    intensity_weight,
    reduce_features,
)
from nnunet_anatomix.registration.memory import fit_to_memory
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from pretraining.imaging.grids import image_tensor
from pretraining.imaging.local_intensity import local_intensity

ALONE = DescriptorConfig(feature_weight=0)
WITH = replace(ALONE, intensity=True)


EVERYWHERE = torch.ones(40, 40, 40, dtype=torch.bool)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("correlation", [0.35, 0.5, 0.8])
def test_the_weight_follows_the_ratio_of_signal_to_noise(correlation):
    first, second = noise(40, 40, 40), noise(40, 40, 40, seed=1)
    signal_to_noise = correlation / sqrt(1 - correlation**2)
    moving = correlation * first + sqrt(1 - correlation**2) * second
    assert intensity_weight(first, moving, EVERYWHERE) == pytest.approx(sqrt(2) * signal_to_noise, rel=0.05)


def test_intensities_that_disagree_have_no_weight():
    first, second = noise(40, 40, 40), noise(40, 40, 40, seed=1)
    assert intensity_weight(first, second, EVERYWHERE) == 0
    assert intensity_weight(first, 0.2 * first + second, EVERYWHERE) == 0
    assert intensity_weight(first, -first, EVERYWHERE) == 0
    assert intensity_weight(first, torch.zeros_like(first), EVERYWHERE) == 0


def test_the_weight_of_equal_scans_is_bounded():
    first = noise(40, 40, 40)
    assert intensity_weight(first, first, EVERYWHERE) == pytest.approx(sqrt(2) * 0.9 / sqrt(1 - 0.9**2))


def test_only_the_foreground_counts():
    first, second = noise(40, 40, 40), noise(40, 40, 40, seed=1)
    inside = torch.zeros_like(EVERYWHERE)
    inside[:, :, :10] = True
    second[inside] = first[inside]
    assert intensity_weight(first, second, inside) == intensity_weight(first, first, EVERYWHERE)
    assert intensity_weight(first, second, torch.zeros_like(inside)) == 0


@pytest.mark.parametrize("pool", [1, 2])
def test_intensities_are_one_more_channel(pool):
    fixed = Scan(image=noise(12, 14, 10))
    moving = Scan(image=fixed.image + 0.5 * noise(12, 14, 10, seed=1))
    local = [local_intensity(scan.image, find_foreground(scan), pool=pool) for scan in (fixed, moving)]
    found, alone = (descriptors(fixed, moving, config, pool=pool) for config in (WITH, ALONE))
    weights = []
    for values, without, intensity in zip(found, alone, local, strict=True):
        assert len(values) == WITH.count(None) == len(without) + 1
        assert torch.equal(values[:-1], without)
        weights.append(values[-1].norm() / intensity.norm())
        torch.testing.assert_close(values[-1], weights[-1] * intensity)
    assert weights[0] == pytest.approx(weights[1]) and 0.5 < weights[0] < 5


def test_each_channel_of_a_scan_has_its_own_weight():
    """The second channels are unrelated, the first ones equal."""
    image = noise(12, 14, 10)
    fixed = Scan(image=image, more=(Scan(image=noise(12, 14, 10, seed=1)),))
    moving = Scan(image=image, more=(Scan(image=noise(12, 14, 10, seed=2)),))
    first, second = descriptors(fixed, moving, WITH, pool=1)[0].split(WITH.count(None))
    assert second[-1].std() < 0.1 * first[-1].std()


def test_principal_components_keep_the_differences_of_intensities():
    fixed, moving = Scan(image=noise(12, 14, 10)), Scan(image=noise(12, 14, 10, seed=1))
    whole = descriptors(fixed, moving, WITH, pool=1)
    expected = reduce_features(*whole, 8)
    for found, wanted in zip(descriptors(fixed, moving, replace(WITH, channels=8), pool=1), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_between_modalities_intensities_weigh_little(data_root):
    """T1 and T2 of one brain; T1 and the same T1 in other units, moved by a voxel."""
    folder = data_root / "registration" / "mni_multimodal"
    t1, t2 = (Scan(image=image_tensor(sitk.ReadImage(str(folder / f"{name}.nii.gz")))) for name in ("t1", "t2"))
    moved = Scan(image=3 * t1.image.roll(2, 0) - 40)
    between, within = (descriptors(t1, other, WITH, pool=2)[0][-1].std() for other in (t2, moved))
    assert between == 0 < 0.6 < within


def test_the_name_of_the_method_says_that_intensities_are_compared():
    assert RegistrationConfig(descriptors=WITH).method == "convexadam-mind+intensity"
    assert RegistrationConfig(descriptors=ALONE).method == "convexadam-mind"


def test_memory_of_intensities_is_counted():
    shape = (120, 110, 100)
    alone, beside = (
        fit_to_memory(shape, 0, config, ConvexAdamConfig(adam_spacing=1), None, 2**34) for config in (ALONE, WITH)
    )
    assert beside.needed_bytes > alone.needed_bytes + 4 * 120 * 110 * 100
