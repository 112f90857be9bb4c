"""Tests of initial transforms: wrong headers, rotated and scaled scans, transform files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.start.affine import Stage
from nnunet_anatomix.registration.start.initial import Start, best_start, file_start, header_start
from nnunet_anatomix.registration.warp import displacement_of, itk_transform
from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError
from pretraining.imaging.grids import image_tensor, resample_image, tensor_image

MIND = DescriptorConfig(feature_weight=0)
SPACING_MM = 1.5
CLOSE = 1.25
"""Mean error, voxels: little more than half a voxel of the grid that compares starts."""
SHAPE = (48, 40, 44)
AXES = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.1, -0.3, 0.2).GetMatrix()


def grid(shape: tuple[int, int, int] = SHAPE, direction: tuple[float, ...] = AXES) -> sitk.Image:
    image = sitk.Image(shape, sitk.sitkFloat32)
    image.SetSpacing([SPACING_MM] * 3)
    image.SetDirection(direction)
    image.SetOrigin((40.0, -70.0, 15.0))
    return image


@pytest.fixture(scope="module")
def tissues() -> sitk.Image:
    """Return labels of an ellipsoid with blobs of four tissues, away from the border."""
    rng = np.random.default_rng(3)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=SHAPE), 4) for _ in range(4)])
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij"))
    inside = (places / np.array([0.8, 0.74, 0.78]).reshape(3, 1, 1, 1)) ** 2
    return tensor_image(torch.from_numpy(np.where(inside.sum(0) < 1, fields.argmax(0) + 1, 0)).int(), grid())


def seen(tissues: sitk.Image, contrast: tuple[float, ...], seed: int) -> sitk.Image:
    """Return a scan of the tissues with a contrast and noise, in air."""
    values = torch.tensor(contrast)[image_tensor(tissues).long()].numpy()
    noise = np.random.default_rng(seed).normal(scale=2, size=values.shape) * (values > 0)
    return tensor_image(torch.from_numpy(ndimage.gaussian_filter(values + noise, 0.6)).float(), tissues)


T1, T2 = (0.0, 100.0, 40.0, 70.0, 20.0), (0.0, 30.0, 90.0, 15.0, 110.0)


def turned(about: sitk.Image, degrees: float, scale: float) -> sitk.AffineTransform:
    """Return a rotation and scaling, from points of the fixed to points of the moving scan."""
    angle = math.radians(degrees)
    rotation = np.array(sitk.VersorRigid3DTransform((1.0, 2.0, -2.0), angle).GetMatrix()).reshape(3, 3)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((scale * rotation).flatten().tolist())
    transform.SetCenter(about.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in about.GetSize()]))
    transform.SetTranslation((4.0, -3.0, 2.0))
    return transform


def moved(tissues: sitk.Image, truth: sitk.Transform, space: sitk.Image | None = None) -> sitk.Image:
    """Return the tissues after a transform from their old to their new positions."""
    return resample_image(tissues, space or grid(), truth.GetInverse(), nearest=True)


def error_voxels(tissues: sitk.Image, found: sitk.Transform, truth: sitk.Transform) -> float:
    """Compute the mean distance over the tissues, voxels."""
    return (
        (displacement_of(found, tissues) - displacement_of(truth, tissues))
        .norm(dim=0)[image_tensor(tissues) > 0]
        .mean()
        .item()
    )


def started(fixed: sitk.Image, moving: sitk.Image, stage: Stage, **options) -> Start:
    return best_start(fixed, moving, MIND, net=None, stage=stage, **options)


@pytest.fixture
def far(tissues) -> tuple[sitk.Image, sitk.Image, sitk.Transform]:
    """Return scans that do not overlap by their headers, one of them cropped, and the truth."""
    moving = seen(tissues, T2, 1)[6:, :-4, 1:]
    steps = (60.0, 60.0, -60.0)
    moving.SetOrigin((np.array(moving.GetOrigin()) + steps).tolist())
    return seen(tissues, T1, 0), moving, sitk.TranslationTransform(3, steps)


@pytest.mark.parametrize("stage", ["none", "rigid", "affine"])
def test_scans_that_headers_lay_apart_are_found(tissues, far, stage):
    fixed, moving, truth = far
    start = started(fixed, moving, stage)
    assert start.name != "header" and start.rivals["header"] < 0 < start.agreement
    assert error_voxels(tissues, start.transform, truth) < (2 if stage == "none" else 0.5)


def test_headers_that_lay_scans_apart_are_not_trusted(far):
    fixed, moving, _ = far
    with pytest.raises(
        InputError, match=r"do not overlap as their headers place them: the moving scan covers 0.0 % .* --init auto"
    ):
        header_start(fixed, moving)
    with pytest.raises(InputError, match="do not overlap"):
        register(fixed, moving, config=RegistrationConfig(init="none", descriptors=MIND))


def test_every_start_is_judged_and_the_best_taken(far):
    fixed, moving, _ = far
    start = started(fixed, moving, "none")
    assert list(start.rivals) == ["header", "centres", "mass", "search"]
    assert start.agreement == pytest.approx(max(start.rivals.values()), abs=1e-4)
    assert start.agreement == pytest.approx(start.rivals[start.name], abs=1e-4)
    assert start.name == "search"


@pytest.mark.parametrize(("stage", "scale"), [("rigid", 1.0), ("affine", 1.0), ("affine", 1.1)])
def test_turned_and_scaled_scans_are_brought_back(tissues, stage, scale):
    truth = turned(tissues, 15, scale)
    moving = seen(moved(tissues, truth, grid((52, 46, 50))), T2, 1)
    start = started(seen(tissues, T1, 0), moving, stage)
    before = error_voxels(tissues, sitk.TranslationTransform(3), truth)
    assert before > 3 and error_voxels(tissues, start.transform, truth) < CLOSE


def test_features_bring_them_back_too(tissues):
    truth = turned(tissues, 15, 1.1)
    moving = seen(moved(tissues, truth), T2, 1)
    net = load_weights(find_weights()).network().eval()
    start = best_start(seen(tissues, T1, 0), moving, DescriptorConfig(side=48), net=net, stage="affine")
    assert error_voxels(tissues, start.transform, truth) < CLOSE


def test_a_start_that_turns_and_scales_agrees_better_than_none(tissues):
    truth = turned(tissues, 15, 1.1)
    fixed, moving = seen(tissues, T1, 0), seen(moved(tissues, truth), T2, 1)
    given = [Start(name="given", transform=transform, rivals={}) for transform in (truth, sitk.AffineTransform(3))]
    right, wrong = (started(fixed, moving, "none", given=start).agreement for start in given)
    # By much more than the bonus of the headers.
    assert right > wrong + 0.1


def test_a_rigid_stage_neither_scales_nor_shears(tissues):
    moving = seen(moved(tissues, turned(tissues, 10, 1.1)), T2, 1)
    matrix = np.array(started(seen(tissues, T1, 0), moving, "rigid").transform.GetMatrix()).reshape(3, 3)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-5) and np.linalg.det(matrix) > 0
    assert not np.allclose(matrix, np.eye(3), atol=0.05)


@pytest.mark.parametrize("change", ["flipped", "permuted", "finer"])
def test_how_the_moving_scan_is_stored_matters_little(tissues, change):
    truth = turned(tissues, 15, 1.0)
    moving = seen(moved(tissues, truth), T2, 1)
    finer = sitk.Image([round(side * 1.3) for side in SHAPE], sitk.sitkFloat32)
    finer.SetSpacing([SPACING_MM / 1.3] * 3)
    finer.SetDirection(AXES)
    finer.SetOrigin(moving.GetOrigin())
    changes = {
        "flipped": lambda: sitk.Flip(moving, (True, False, True)),
        "permuted": lambda: sitk.PermuteAxes(moving, (2, 0, 1)),
        "finer": lambda: resample_image(moving, finer),
    }
    start = started(seen(tissues, T1, 0), changes[change](), "rigid")
    assert error_voxels(tissues, start.transform, truth) < CLOSE


def test_masks_leave_out_what_is_not_to_count(tissues):
    truth = turned(tissues, 12, 1.0)
    there = moved(tissues, truth)
    moving = image_tensor(seen(there, T2, 1))
    outside = image_tensor(there) == 0
    # An object such as a headrest.
    moving[:, :7] += 400 * outside[:, :7]
    masks = (None, sitk.BinaryDilate(sitk.Cast(there > 0, sitk.sitkUInt8), (2, 2, 2)))
    start = started(seen(tissues, T1, 0), tensor_image(moving, there), "rigid", masks=masks)
    assert error_voxels(tissues, start.transform, truth) < CLOSE


def test_of_equal_starts_the_headers_are_taken(tissues):
    scan = seen(tissues, T1, 0)
    start = started(scan, scan, "none")
    assert start.rivals == pytest.approx(dict.fromkeys(("header", "centres", "mass", "search"), 1.0), abs=1e-3)
    assert start.name == "header" and start.transform.TransformPoint((1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)


def test_of_starts_that_differ_little_the_headers_are_taken(tissues):
    scan = seen(tissues, T1, 0)
    moving = scan[1:, :, :]  # the centre moves by half a voxel
    start = started(scan, moving, "none")
    assert start.name == "header" and start.rivals["centres"] < start.rivals["header"]


@pytest.mark.parametrize("ending", ["tfm", "mat", "h5", "txt"])
def test_transforms_of_itk_are_read(tissues, tmp_path, ending):
    truth = turned(tissues, 15, 1.1)
    sitk.WriteTransform(truth, str(tmp_path / f"start.{ending}"))
    start = file_start(tmp_path / f"start.{ending}", tissues, tissues)
    assert start.name == "file" and math.isnan(start.agreement)
    assert error_voxels(tissues, start.transform, truth) < 1e-3


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_displacement_fields_are_read(tissues, tmp_path, kind):
    truth = turned(tissues, 15, 1.1)
    field = itk_transform(displacement_of(truth, tissues), tissues).GetDisplacementField()
    pixels = sitk.sitkVectorFloat32 if kind is np.float32 else sitk.sitkVectorFloat64
    sitk.WriteImage(sitk.Cast(field, pixels), str(tmp_path / "start.nii.gz"))
    start = file_start(tmp_path / "start.nii.gz", tissues, tissues)
    assert not start.transform.IsLinear() and error_voxels(tissues, start.transform, truth) < 1e-3


def test_a_linear_start_from_a_file_is_descended_from(tissues, tmp_path):
    truth = turned(tissues, 15, 1.0)
    fixed, moving = seen(tissues, T1, 0), seen(moved(tissues, truth, grid((52, 46, 50))), T2, 1)
    near = turned(tissues, 8, 1.0)
    near.SetTranslation((12.0, -3.0, 2.0))
    sitk.WriteTransform(near, str(tmp_path / "start.tfm"))
    start = started(fixed, moving, "rigid", given=file_start(tmp_path / "start.tfm", fixed, moving))
    assert list(start.rivals) == ["file"]
    assert error_voxels(tissues, near, truth) > 4 and error_voxels(tissues, start.transform, truth) < CLOSE


def bad_files(folder: Path, tissues: sitk.Image) -> dict[str, tuple[Path, str]]:
    """Return error → file and text of the message."""
    (folder / "notes.tfm").write_text("Dear diary,\n")
    (folder / "notes.nii.gz").write_bytes(b"\x00" * 100)
    (folder / "notes.mat").write_bytes(bytes(range(200)))
    (folder / "notes.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    sitk.WriteImage(tissues, str(folder / "scan.nii.gz"))
    sitk.WriteTransform(sitk.Euler2DTransform(), str(folder / "flat.tfm"))
    sitk.WriteTransform(sitk.TranslationTransform(3, (1e4, 0.0, 0.0)), str(folder / "away.tfm"))
    return {
        "missing": (folder / "none.tfm", "no such file"),
        "text": (folder / "notes.tfm", "unreadable"),
        "zeros": (folder / "notes.nii.gz", "damaged"),
        "bytes": (folder / "notes.mat", "unreadable"),
        "half a file": (folder / "notes.h5", "unreadable"),
        "a scan": (folder / "scan.nii.gz", "neither a transform of ITK nor a displacement field"),
        "two dimensions": (folder / "flat.tfm", "has 2 dimensions, expected 3"),
        "far away": (folder / "away.tfm", "do not overlap after the initial transform"),
    }


@pytest.mark.parametrize(
    "wrong", ["missing", "text", "zeros", "bytes", "half a file", "a scan", "two dimensions", "far away"]
)
def test_files_that_are_no_start_are_refused_in_one_line(tissues, tmp_path, wrong):
    path, said = bad_files(tmp_path, tissues)[wrong]
    with pytest.raises(InputError, match=said) as caught:
        file_start(path, tissues, tissues)
    assert "\n" not in str(caught.value)


def test_a_start_that_bends_leaves_nothing_for_an_affine_stage(tissues, tmp_path):
    bend: Tensor = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(0))
    sitk.WriteImage(itk_transform(bend, tissues).GetDisplacementField(), str(tmp_path / "bend.nii.gz"))
    config = RegistrationConfig(init=str(tmp_path / "bend.nii.gz"), affine="rigid", descriptors=MIND)
    with pytest.raises(InputError, match="--affine none"):
        register(seen(tissues, T1, 0), seen(tissues, T2, 1), config=config)
