"""Features of scans: extraction, files and figures, for any orientation and spacing."""

from __future__ import annotations

import logging
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from matplotlib.image import imread

from nnunet_anatomix.commands.features import features as features_command
from nnunet_anatomix.features.extract import extract_features
from nnunet_anatomix.features.files import feature_ending, write_features
from nnunet_anatomix.features.pictures import draw_features
from pretraining.backbone.inference import normalize_voxelwise, sliding_window_features, whole_volume_features
from pretraining.backbone.inference_memory import window_bytes
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import Weights, save_weights
from pretraining.common.errors import InputError
from pretraining.imaging.grids import image_tensor

OBLIQUE = (0.0, -0.8, 0.6, 1.0, 0.0, 0.0, 0.0, 0.6, 0.8)
SMALL = {"width": 2, "poolings": 2, "out_channels": 7}


def small_weights(**changes: object) -> Weights:
    torch.manual_seed(3)
    config = UNetConfig(**SMALL, **changes)
    return Weights(config, UNet(config).state_dict())


def scan(
    *size: int, spacing: tuple[float, float, float] = (1.5, 1.0, 2.0), direction: tuple[float, ...] = OBLIQUE
) -> sitk.Image:
    """Return a CT scan of a bright, noisy block in air."""
    values = np.random.default_rng(1).normal(0, 30, size[::-1]) - 1000
    values[tuple(slice(side // 4, -(side // 4) or None) for side in size[::-1])] += 1040
    image = sitk.GetImageFromArray(values.astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((-12.0, 30.0, 5.5))
    image.SetDirection(direction)
    return image


def test_windows_and_the_whole_volume_have_the_axes_of_the_scan():
    image, weights = scan(20, 13, 17), small_weights()
    net, volume = weights.network(), image_tensor(image)
    found = extract_features(image, weights, side=16, overlap=0.5, clip=(-1000, 100), bf16=False)
    assert found.shape == (7, 20, 13, 17) and found.dtype == torch.float32
    assert torch.equal(found, sliding_window_features(net, volume, side=16, overlap=0.5, clip=(-1000, 100)))
    whole = extract_features(image, weights, whole=True, bf16=False)
    assert torch.equal(whole, whole_volume_features(net, volume))


def test_networks_with_instance_norm_are_normalized_voxel_by_voxel():
    image, weights = scan(12, 9, 10), small_weights(norm="instance")
    plain = whole_volume_features(weights.network(), image_tensor(image))
    torch.testing.assert_close(extract_features(image, weights, bf16=False), normalize_voxelwise(plain))


def test_memory_limits_windows_with_a_warning(caplog):
    image, weights = scan(40, 33, 36), small_weights()
    result = 7 * 40 * 33 * 36 * 4
    memory = result + window_bytes(weights.network(), (40, 33, 36), 16)
    with caplog.at_level(logging.WARNING):
        found = extract_features(image, weights, side=32, overlap=0, bf16=False, memory=memory)
    assert "windows of 32 voxels do not fit" in caplog.text and "using 16" in caplog.text
    assert torch.equal(found, sliding_window_features(weights.network(), image_tensor(image), side=16, overlap=0))
    with pytest.raises(InputError, match=r"whole volume at once needs .* use windows"):
        extract_features(image, weights, whole=True, bf16=False, memory=memory)
    with pytest.raises(InputError, match="features of this volume need"):
        extract_features(image, weights, memory=result)


def vector_image() -> sitk.Image:
    return sitk.Compose(scan(9, 8, 10), scan(9, 8, 10))


def with_nan() -> sitk.Image:
    image = sitk.Cast(scan(9, 8, 10), sitk.sitkFloat32)
    image[3, 3, 3] = float("nan")
    return image


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (scan(9, 8, 10)[:, :, 4], "three axes"),
        (sitk.JoinSeries([scan(9, 8, 10)] * 2), "three axes"),
        (vector_image(), "one number per voxel"),
        (with_nan(), "1 of 720 voxels are NaN"),
        (scan(9, 8, 10) * 0 + 7, "every voxel is 7"),
    ],
    ids=["2D", "4D", "vectors", "NaN", "constant"],
)
def test_images_that_are_not_scans_are_refused(image, named):
    with pytest.raises(InputError, match=named):
        extract_features(image, small_weights())


def test_a_clip_window_outside_of_the_intensities_is_refused():
    with pytest.raises(InputError, match="clip: 3000 to 4000 leaves no contrast"):
        extract_features(scan(9, 8, 10), small_weights(), clip=(3000, 4000))


def test_thick_slices_get_a_hint(caplog):
    with caplog.at_level(logging.INFO):
        extract_features(scan(16, 16, 9, spacing=(1, 1, 5)), small_weights())
        assert "1×1×5 mm" in caplog.text and "--spacing" in caplog.text


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_vector_images_have_the_grid_of_the_scan(ending, tmp_path):
    image, features = scan(5, 4, 6), torch.randn(7, 5, 4, 6)
    write_features(tmp_path / f"features{ending}", features, image)
    back = sitk.ReadImage(str(tmp_path / f"features{ending}"))
    assert back.GetNumberOfComponentsPerPixel() == 7 and back.GetSize() == (5, 4, 6)
    assert back[1, 2, 3] == pytest.approx(features[:, 1, 2, 3].tolist())
    corners = [one.TransformIndexToPhysicalPoint((4, 3, 5)) for one in (image, back)]
    assert corners[0] == pytest.approx(corners[1], abs=1e-4) and back.GetOrigin() == pytest.approx(image.GetOrigin())


def test_blosc2_has_nnunets_axes_and_the_geometry(tmp_path):
    image, features = scan(70, 4, 6), torch.randn(7, 70, 4, 6)
    for _ in range(2):  # the second call overwrites the file
        write_features(tmp_path / "features.b2nd", features, image)
    back = blosc2.open(str(tmp_path / "features.b2nd"), mode="r")
    assert np.array_equal(back[:], features.permute(0, 3, 2, 1).numpy())
    geometry = back.schunk.vlmeta["geometry"]
    assert (
        geometry["axes"] == "CZYX" and geometry["spacing"] == [1.5, 1.0, 2.0] and geometry["direction"] == list(OBLIQUE)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["features.b2nd"]


@pytest.mark.parametrize("name", ["features", "features.png", "features.npz", ".nii.gz", "features.gz"])
def test_other_endings_are_refused(name):
    with pytest.raises(InputError, match=r"ends with \.nii\.gz.*b2nd, found"):
        feature_ending(f"/somewhere/{name}")


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_figures_show_scan_colours_and_channels(channels, tmp_path):
    torch.manual_seed(2)
    draw_features(tmp_path / "features.png", scan(20, 13, 17), torch.randn(channels, 20, 13, 17))
    picture = imread(tmp_path / "features.png")[..., :3]
    coloured = np.flatnonzero(np.ptp(picture, axis=-1).max(0) > 0.2) / (picture.shape[1] / (2 + min(channels, 6)))
    assert 1 < coloured.min() < coloured.max() < 2.1  # columns; only the second one


def test_figures_do_not_depend_on_how_a_scan_is_stored(tmp_path):
    image, features = scan(20, 13, 17, direction=tuple(np.eye(3).ravel())), torch.randn(4, 20, 13, 17)
    draw_features(tmp_path / "one.png", image, features)
    # The same scan with permuted axes: z first and reversed.
    stored = sitk.PermuteAxes(image[:, :, ::-1], [2, 0, 1])
    draw_features(tmp_path / "other.png", stored, features.flip(3).permute(0, 3, 1, 2))
    one, other = (imread(tmp_path / f"{name}.png") for name in ("one", "other"))
    assert one.shape == other.shape and np.abs(one - other).mean() < 0.02


@pytest.fixture
def files(tmp_path) -> tuple[Path, str]:
    """Write a scan and weights; return their paths."""
    sitk.WriteImage(scan(20, 13, 17), str(tmp_path / "scan.nii.gz"))
    weights = small_weights()
    save_weights(tmp_path / "small.safetensors", weights.state, weights.architecture, {"name": "small"})
    return tmp_path / "scan.nii.gz", str(tmp_path / "small.safetensors")


def test_the_command_writes_features_and_a_figure(files, tmp_path):
    image, weights = files
    features_command(
        image,
        tmp_path / "new" / "x.nii.gz",
        weights,
        clip=(-1000, 100),
        spacing=2.0,
        precision="fp32",
        memory="1G",
        device="cpu",
    )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x.nii.gz", "x.png"]
    written = sitk.ReadImage(str(tmp_path / "new" / "x.nii.gz"))
    assert written.GetSpacing() == pytest.approx([2.0] * 3) and written.GetNumberOfComponentsPerPixel() == 7
    features_command(image, tmp_path / "plain.b2nd", weights, picture=False, device="cpu")
    assert not (tmp_path / "plain.png").exists()
    assert blosc2.open(str(tmp_path / "plain.b2nd"), mode="r").shape == (7, 17, 13, 20)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"out": Path("x.png")}, "ends with"),
        ({"memory": "lots"}, "4G or 512M"),
        ({"image": Path("missing.nii.gz")}, "no such file missing.nii.gz"),
        ({"weights": "missing.safetensors"}, "no such file"),
        ({"side": 30}, "multiple of 4"),
        ({"overlap": 1.5}, "overlap < 1"),
    ],
)
def test_bad_flags_are_named_and_nothing_is_written(files, tmp_path, changes, named):
    image, weights = files
    with pytest.raises(ValueError, match=named):
        features_command(
            **{"image": image, "out": tmp_path / "out" / "x.nii", "weights": weights, "device": "cpu", **changes}
        )
    assert not (tmp_path / "out").exists()
