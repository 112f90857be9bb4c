"""Tests of volumes of FreeSurfer: read as by nibabel, and judged like other files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.orientation import ras_affine
from pretraining.imaging.scans import read_image, validate_scan

SHAPE = (6, 9, 7)
AFFINE = np.array([[-1.2, 0.3, 0.0, 20.0], [0.2, 0.0, 0.9, -30.0], [0.4, -0.9, 0.0, 11.0], [0, 0, 0, 1]])
AFFINE[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] * (1.5, 0.8, 2.0)
rng = np.random.default_rng(0)


def volume(path: Path, dtype: type, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values = (rng.normal(size=shape) * 90 + 100).clip(0, 250).astype(dtype)
    nibabel.save(nibabel.freesurfer.MGHImage(values, AFFINE), path)
    return values


@pytest.mark.parametrize("ending", ["mgz", "mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_values_types_and_positions_are_those_of_nibabel(tmp_path, ending, dtype):
    path = tmp_path / f"orig.{ending}"
    values = volume(path, dtype)
    image = read_image(path, "fixed")
    assert np.array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), values)
    assert sitk.GetArrayFromImage(image).dtype == dtype
    affine = ras_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin())
    np.testing.assert_allclose(affine, nibabel.load(path).affine, atol=1e-4)
    validate_scan(image, "fixed")


def test_positions_are_those_of_the_same_volume_as_nifti(tmp_path):
    values = volume(tmp_path / "a.mgz", np.float32)
    nibabel.save(nibabel.Nifti1Image(values, nibabel.load(tmp_path / "a.mgz").affine), tmp_path / "a.nii.gz")
    mgh, nifti = (read_image(tmp_path / name, "fixed") for name in ("a.mgz", "a.nii.gz"))
    for index in ((0, 0, 0), (5, 8, 6)):
        np.testing.assert_allclose(
            mgh.TransformIndexToPhysicalPoint(index), nifti.TransformIndexToPhysicalPoint(index), atol=1e-4
        )


def spoil(path: Path, how: str) -> None:
    values = np.ones(SHAPE, np.float32)
    if how == "NaN":
        values[2, 3, 4] = np.nan
    shape = (*SHAPE, 2) if how == "frames" else SHAPE
    nibabel.save(nibabel.freesurfer.MGHImage(np.resize(values, shape), AFFINE), path)
    content = path.read_bytes()
    if how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("not a volume, but long enough to be one\n" * 20)
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("ending", ["mgz", "mgh"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("NaN", "1 voxel is NaN on disk"),
        ("half", "truncated"),
        ("text", "does not begin with an MGH header"),
        ("empty", "empty file"),
        ("frames", "2 volumes in one file"),
    ],
)
def test_damaged_volumes_are_refused_in_one_line(tmp_path, ending, how, said):
    path = tmp_path / f"orig.{ending}"
    spoil(path, how)
    with pytest.raises(InputError, match=said) as refused:
        read_image(path, "fixed")
    assert "\n" not in str(refused.value)


def test_headers_are_read_without_simpleitk():
    code = (
        "import sys, pretraining.imaging.label_files; sys.exit('SimpleITK' in sys.modules or 'nibabel' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
