"""Written transforms in SimpleITK, ANTs and greedy.

The fixed scan is oblique and flipped, the moving one turned and 1,000 mm away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from nnunet_anatomix.registration.register import Registration
from nnunet_anatomix.registration.start.initial import Start
from nnunet_anatomix.registration.warp import invert, itk_transform
from pretraining.imaging.grids import image_tensor, resample_image

SIZE = (18, 16, 14)
FORWARD, INVERSE = ("1Warp.nii.gz", "0GenericAffine.mat"), ("0GenericAffine.mat", "1InverseWarp.nii.gz")
"""Files in ANTs' order: the last one is applied first to an image, and last to a point."""


def turned(size, spacing, origin, angles, flips=(1, 1, 1), values: np.ndarray | None = None) -> sitk.Image:
    """Return a smooth image whose axes are turned, and flipped where ``flips`` is -1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(len(angles)).normal(size=size[::-1]), 2)
    image = sitk.GetImageFromArray((100 * noise / noise.std()).astype(np.float32))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*angles)
    image.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) * flips).flatten().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


@pytest.fixture(scope="module")
def registration() -> Registration:
    """Return a known deformation, up to two voxels and not zero at the borders, and start."""
    fixed = turned(SIZE, (1.5, 1.2, 2.0), (3.0, -4.0, 5.0), (0.3, -0.2, 0.5), (1, -1, 1))
    x, y, z = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in SIZE), indexing="ij")
    displacement = 1.2 * torch.stack([torch.sin(y / 4) + 0.5, torch.cos(z / 5), torch.sin(x / 6) - 0.4])
    start = sitk.AffineTransform(3)
    turn = sitk.Euler3DTransform()
    turn.SetRotation(-0.4, 0.1, 0.9)
    start.SetMatrix((1.05 * np.array(turn.GetMatrix())).tolist())
    start.SetTranslation((1000.0, 30.0, -20.0))
    forward = sitk.CompositeTransform([start, itk_transform(displacement, fixed)])
    inverse_displacement = invert(displacement)
    inverse = sitk.CompositeTransform([itk_transform(inverse_displacement, fixed), start.GetInverse()])
    centre = np.array(forward.TransformPoint(fixed.TransformContinuousIndexToPhysicalPoint([9.0, 8.0, 7.0])))
    moving = turned((26, 24, 22), (1.4, 1.6, 1.5), (0, 0, 0), (-0.4, 0.1, 0.7), (-1, 1, 1))
    middle = np.array(moving.TransformContinuousIndexToPhysicalPoint([12.5, 11.5, 10.5]))
    moving.SetOrigin((centre - middle).tolist())
    return Registration(
        moved=resample_image(moving, fixed, forward),
        forward=forward,
        inverse=inverse,
        start=Start(name="file", transform=start, rivals={}),
        displacement=displacement,
        inverse_displacement=inverse_displacement,
        known=torch.ones(SIZE),
        grid=fixed,
        fixed=fixed,
        moving=moving,
        seconds={},
        settings={"method": "known", "affine": "none", "clip": (None, None)},
    )


@pytest.fixture(scope="module")
def folder(registration, tmp_path_factory) -> Path:
    """Write the registration, both scans, and a reference that reaches beyond the fixed grid."""
    folder = tmp_path_factory.mktemp("written")
    registration.save(folder)
    sitk.WriteImage(registration.fixed, folder / "fixed.nii.gz")
    sitk.WriteImage(registration.moving, folder / "moving.nii.gz")
    sitk.WriteImage(wider(registration.fixed), folder / "wide.nii.gz")
    return folder


def wider(fixed: sitk.Image) -> sitk.Image:
    return sitk.ConstantPad(fixed, (5, 4, 6), (4, 5, 3))


def expected(registration: Registration, to: str) -> np.ndarray:
    """Return the moving scan on the fixed or a wider grid, or the fixed scan on the moving grid."""
    if to == "moving":
        image, grid, transform = registration.fixed, registration.moving, registration.inverse
    else:
        grid = registration.fixed if to == "fixed" else wider(registration.fixed)
        image, transform = registration.moving, registration.forward
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, transform, sitk.sitkLinear, 0.0))


def close(found: np.ndarray, wanted: np.ndarray, *, rim: bool = True) -> None:
    """Assert that two images are equal, but for few voxels at the rim of what is known."""
    assert wanted.std() > 30 and (wanted != 0).mean() > 0.3
    assert (np.abs(found - wanted) < 0.1).mean() > 0.985 or not rim
    assert ((found != 0) == (wanted != 0)).mean() > 0.85
    inner = ndimage.binary_erosion((wanted != 0) & (found != 0), iterations=2)
    assert inner.sum() > 300 and np.abs(found - wanted)[inner].max() < 0.1


def points_of(registration: Registration, name: str) -> np.ndarray:
    """Return points inside the grid that a transform starts from, and up to 1,000 mm outside."""
    grid = registration.fixed if name == "forward" else registration.moving
    inside = [grid.TransformContinuousIndexToPhysicalPoint(at) for at in ((5.5, 6, 7), (12, 11.2, 9), (9, 8, 7))]
    return np.vstack([inside, np.add(inside[:1], 1000), np.add(inside[1:2], (-1000, 300, -1000))])


@pytest.mark.parametrize("to", ["fixed", "wide", "moving"])
@pytest.mark.parametrize("files", ["h5", "ANTs' names"])
def test_simpleitk_moves_images_by_the_files(registration, folder, to, files):
    field = "1Warp.nii.gz" if to != "moving" else "1InverseWarp.nii.gz"
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage(folder / field, sitk.sitkVectorFloat64))
    affine = sitk.ReadTransform(folder / "0GenericAffine.mat")
    parts = [affine, warp] if to != "moving" else [warp, affine.GetInverse()]
    whole = folder / ("inverse.h5" if to == "moving" else "forward.h5")
    transform = sitk.ReadTransform(whole) if files == "h5" else sitk.CompositeTransform(parts)
    image, grid = ("fixed", "moving") if to == "moving" else ("moving", to)
    moved = sitk.Resample(
        sitk.ReadImage(folder / f"{image}.nii.gz"),
        sitk.ReadImage(folder / f"{grid}.nii.gz"),
        transform,
        sitk.sitkLinear,
    )
    close(sitk.GetArrayFromImage(moved), expected(registration, to))


@pytest.mark.parametrize("to", ["fixed", "wide", "moving"])
@pytest.mark.parametrize("files", ["h5", "ANTs' names"])
def test_ants_moves_images_by_the_files(registration, folder, to, files):
    ants = pytest.importorskip("ants", reason="needs antspyx")
    names = INVERSE if to == "moving" else FORWARD
    flags = [True, False] if to == "moving" else [False, False]
    if files == "h5":
        names, flags = (("inverse.h5",) if to == "moving" else ("forward.h5",)), [False]
    image, grid = ("fixed", "moving") if to == "moving" else ("moving", to)
    moved = ants.apply_transforms(
        ants.image_read(str(folder / f"{grid}.nii.gz")),
        ants.image_read(str(folder / f"{image}.nii.gz")),
        [str(folder / name) for name in names],
        whichtoinvert=flags,
    )
    close(moved.numpy().transpose(2, 1, 0), expected(registration, to))


@pytest.mark.parametrize("name", ["forward", "inverse"])
def test_ants_moves_points_by_the_files_within_a_micrometre(registration, folder, name):
    ants = pytest.importorskip("ants", reason="needs antspyx")
    pandas = pytest.importorskip("pandas")
    points = points_of(registration, name)
    ours = registration.forward if name == "forward" else registration.inverse
    wanted = [ours.TransformPoint(point) for point in points.tolist()]
    for names, flags in (
        ((f"{name}.h5",), [False]),
        (FORWARD, [False, False]) if name == "forward" else (INVERSE, [True, False]),
    ):
        theirs = ants.apply_transforms_to_points(
            3,
            pandas.DataFrame(points, columns=list("xyz")),
            [str(folder / file) for file in names],
            whichtoinvert=flags,
        )
        np.testing.assert_allclose(theirs.to_numpy()[:, :3], wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("to", ["fixed", "wide", "moving"])
def test_greedy_moves_images_by_the_files(registration, folder, tmp_path, to):
    greedy = pytest.importorskip("picsl_greedy", reason="needs picsl-greedy").Greedy3D()
    image, grid = ("fixed", "moving") if to == "moving" else ("moving", to)
    files = f"{folder}/1Warp.nii.gz {folder}/start.tfm"
    if to == "moving":
        files = f"{folder}/start.tfm,-1 {folder}/1InverseWarp.nii.gz"
    greedy.execute(f"-V 0 -rf {folder}/{grid}.nii.gz -rm {folder}/{image}.nii.gz {tmp_path}/out.nii.gz -r {files}")
    # At the rim, greedy goes over to the background within a voxel, where ITK cuts.
    close(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out.nii.gz")), expected(registration, to), rim=False)


def test_the_deformation_is_no_small_part(registration):
    start = sitk.Resample(registration.moving, registration.fixed, registration.start.transform, sitk.sitkLinear, 0.0)
    assert (image_tensor(start) - image_tensor(registration.moved)).abs().mean() > 20
    outside = expected(registration, "wide")
    outside[6:-3, 4:-5, 5:-4] = 0
    assert (outside != 0).sum() > 1000
