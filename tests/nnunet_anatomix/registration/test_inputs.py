"""Tests of scans in the types of common libraries, and of the example in README."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from nnunet_anatomix import register
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.inputs import load_features, to_itk
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from pretraining.backbone.find_weights import DEFAULT_WEIGHTS, bundled_weights
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError
from pretraining.imaging.orientation import ras_affine

README = Path(__file__).resolve().parents[3] / "README.md"
SHAPE, SPACING = (20, 18, 16), (1.5, 1.2, 2.0)
CONFIG = RegistrationConfig(init="none", convexadam=ConvexAdamConfig(grid_spacing=4, reach=2, iterations=(5,)))


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32).cumsum(0).cumsum(1)


@pytest.fixture(scope="module")
def image(values) -> sitk.Image:
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing(SPACING)
    return image


def of_nibabel(image: sitk.Image) -> nibabel.Nifti1Image:
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return nibabel.Nifti1Image(values, ras_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin()))


def same(one: sitk.Image, other: sitk.Image) -> None:
    assert np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
    assert one.GetPixelID() == other.GetPixelID()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(one, get)(), getattr(other, get)(), atol=1e-5)


def test_all_types_give_the_same_image(values, image, tmp_path):
    sitk.WriteImage(image, tmp_path / "a.nrrd")
    turned = sitk.Image(image)
    turned.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    turned.SetOrigin((5, -6, 7))
    same(to_itk(of_nibabel(turned), "fixed"), turned)
    same(to_itk(str(tmp_path / "a.nrrd"), "fixed"), image)
    for array in (values, np.asfortranarray(values), torch.from_numpy(values), values.astype(">f4")):
        same(to_itk(array, "fixed", spacing_mm=SPACING), image)
        same(to_itk(array, "fixed", like=turned), turned)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (torch.ones(SHAPE, dtype=torch.bool), sitk.sitkUInt8),
        (torch.ones(SHAPE, dtype=torch.bfloat16), sitk.sitkFloat32),
        (torch.ones(SHAPE, requires_grad=True), sitk.sitkFloat32),
        (np.ones(SHAPE, np.float16), sitk.sitkFloat32),
        (np.ones(SHAPE, np.uint32), sitk.sitkUInt32),
    ],
)
def test_types_that_itk_lacks_are_converted(given, kind):
    assert to_itk(given, "fixed", spacing_mm=SPACING).GetPixelID() == kind


@pytest.mark.parametrize(
    ("scan", "spacing", "said"),
    [
        (np.zeros(SHAPE), None, r"an array has no spacing, .* pass fixed_spacing_mm="),
        (np.zeros(SHAPE), (1, 2), r"expected three numbers in mm"),
        (np.zeros(SHAPE), (1, 2, -3), r"_spacing_mm: expected 0\.0001 to 100 mm"),
        (torch.zeros(1, *SHAPE), SPACING, r"expected three axes of real numbers, found float32 of shape \(1, 20"),
        (np.zeros(SHAPE, complex), SPACING, "real numbers, found complex128"),
        (MetaTensor(torch.zeros(SHAPE)), SPACING, r"found monai\.\S*MetaTensor; convert it"),
        ([[1.0]], SPACING, r"an image of SimpleITK or nibabel, .* found builtins\.list"),
        (nibabel.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), None, r"shape \(4, 4, 4, 2\)"),
    ],
)
def test_other_scans_are_refused_in_one_line(scan, spacing, said):
    with pytest.raises(InputError, match=f"^fixed.*{said}") as refused:
        register(scan, scan, fixed_spacing_mm=spacing, moving_spacing_mm=spacing)
    assert "\n" not in str(refused.value)


def test_no_features_compare_mind_alone(values, image):
    mask = np.zeros(SHAPE, bool)
    mask[3:-3, 3:-3, 3:-3] = True
    by_arrays = register(
        *(values, torch.from_numpy(values[2:])),
        features=None,
        config=CONFIG,
        fixed_spacing_mm=SPACING,
        moving_spacing_mm=SPACING,
        fixed_mask=mask,
    )
    assert by_arrays.settings["descriptors"].feature_weight == 0 and by_arrays.fixed.GetSpacing() == SPACING
    by_images = register(image, image[2:, :, :], features=None, config=CONFIG)
    assert not torch.equal(by_images.displacement, by_arrays.displacement)


def test_features_are_names_weights_or_networks(weights_file, monkeypatch):
    assert load_features(None) is None
    net = UNet(UNetConfig(width=4, poolings=1))
    assert load_features(net) is net
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    assert load_features("bundled").sha256 == load_weights(bundled_weights()[DEFAULT_WEIGHTS]).sha256
    assert load_features(weights_file).sha256 == load_weights(weights_file).sha256
    with pytest.raises(InputError, match="no such file"):
        load_features("gone.safetensors")


def test_the_former_name_of_features_works(image):
    net = UNet(UNetConfig(width=4, poolings=1))
    with pytest.warns(DeprecationWarning, match=r"features=\.\.\."):
        former = register(image, image, config=CONFIG, weights=net)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        now = register(image, image, config=CONFIG, features=net)
    assert torch.equal(former.displacement, now.displacement)


def test_the_example_in_readme_runs(image, tmp_path, monkeypatch):
    (block,) = (
        text for text in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "register" in text
    )
    assert len(block.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    x, y, z = np.indices((24, 26, 25)) / 4
    scene = 900 * np.sin(x) * np.cos(y) * np.sin(z) + 20 * np.random.default_rng(0).normal(size=x.shape)
    ct = to_itk(scene.astype(np.int16), "ct", spacing_mm=(2, 2, 2))
    sitk.WriteImage(ct, "ct.nii.gz")
    sitk.WriteImage(ct[1:, :, :], "mr.nii.gz")
    sitk.WriteImage(sitk.Cast(ct[1:, :, :] > 300, sitk.sitkUInt8), "mr_organs.nii.gz")
    found = {"__name__": "example"}
    exec(compile(block, "README.md", "exec"), found)
    assert found["organs"].GetSize() == sitk.ReadImage("mr_on_ct.nii.gz").GetSize() == (24, 26, 25)
