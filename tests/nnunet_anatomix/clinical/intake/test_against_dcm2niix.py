"""Scans as intake writes them are those that dcm2niix writes: positions within .05 mm, values."""

from __future__ import annotations

import gzip
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom.data
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from scipy.ndimage import map_coordinates

from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from pretraining.imaging.grids import Grid
from tests.nnunet_anatomix.clinical.dicom_series import AXIAL, CORONAL, SAGITTAL, ramp, write_series
from tests.nnunet_anatomix.clinical.frame_files import write_enhanced, write_mosaic
from tests.nnunet_anatomix.clinical.intake.test_volumes import MR, one_series, set_tags, stacked
from tests.nnunet_anatomix.clinical.phantom import Scan, intensities
from tests.nnunet_anatomix.clinical.test_original_slices import EVEN, SCANS

WITHIN_MM = 0.05
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def by_dcm2niix(source: Path, out: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (X, Y, Z) values and the affine to LPS of all volumes of dcm2niix, by name."""
    out.mkdir()
    program = shutil.which("dcm2niix")
    if program is None:
        import dcm2niix

        program = dcm2niix.bin
    subprocess.run(
        [program, "-b", "n", "-z", "n", "-f", "%s_%e_%r", "-o", str(out), str(source)], check=True, capture_output=True
    )
    found = {}
    for path in sorted(out.glob("*.nii")):
        image = nibabel.load(path)
        values = np.asarray(image.dataobj)
        for number, volume in enumerate(np.moveaxis(values, 3, 0) if values.ndim == 4 else [values]):
            found[f"{path.stem} {number}"] = volume, _LPS @ image.affine
    return found


def by_intake(source: Path) -> list[sitk.Image]:
    series, _ = scan_tree(source.resolve())
    return [read_series(source.resolve(), each) for each in series if not each.problem]


def index_map(grid: Grid, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Return the (3, 3) map of indices to ours; assert that voxels are at the same places."""
    ours = np.eye(4)
    ours[:3, :3], ours[:3, 3] = grid.steps_mm, grid.origin_mm
    to_ours = np.linalg.inv(ours) @ affine
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, side - 1) for side in shape))]).T
    index = np.rint(to_ours @ corners)
    assert np.abs(ours @ index - affine @ corners).max() <= WITHIN_MM
    assert index[:3].min() == 0 and tuple(index[:3].max(axis=1) + 1) == grid.size
    return np.rint(to_ours[:3, :3]).astype(int)


def equals(image: sitk.Image, values: np.ndarray, affine: np.ndarray) -> bool:
    """Return whether an image has these values at these places."""
    ours = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    order = index_map(Grid.of(image), values.shape, affine)
    turned = ours.transpose(np.abs(order).argmax(axis=0))
    turned = np.flip(turned, np.flatnonzero(order.sum(axis=0) < 0))
    return turned.shape == values.shape and np.allclose(turned, values, rtol=1e-6, atol=1e-4)


def assert_same(source: Path, out: Path, volumes: int) -> None:
    """Assert that both find the same volumes."""
    theirs, ours = by_dcm2niix(source, out), by_intake(source)
    assert len(theirs) == len(ours) == volumes
    for values, affine in theirs.values():
        assert sum(equals(image, values, affine) for image in ours) == 1


def copied(source: Path, folder: Path) -> Path:
    """Copy files, and unpack those that are compressed."""
    folder.mkdir()
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        data = path.read_bytes()
        (folder / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(data) if path.suffix == ".gz" else data)
    return folder


PYDICOM = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests"
NIBABEL = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


def test_series_of_pydicom(tmp_path):
    assert_same(copied(PYDICOM / "98892001" / "CT5N", tmp_path / "src"), tmp_path / "out", 1)


@pytest.mark.parametrize("name", ["siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz"])
def test_mosaics_of_nibabel(tmp_path, name):
    """Compare places alone: all voxels of these files are 0."""
    source = copied(NIBABEL / name, tmp_path / "src")
    ((values, affine),) = by_dcm2niix(source, tmp_path / "out").values()
    (series,), _ = scan_tree(source.resolve())
    index_map(series.known_grid, values.shape, affine)
    assert values.shape == (128, 128, 48) and not values.any()


def test_a_real_series(tmp_path, data_root):
    assert_same(copied(data_root / "dicom" / "ct_series", tmp_path / "src"), tmp_path / "out", 1)


_TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
TURNED = np.array([_TURN[0], _TURN[1], np.cross(_TURN[0], _TURN[1])])


@pytest.mark.parametrize("direction", [AXIAL, CORONAL, SAGITTAL, TURNED], ids=["axial", "coronal", "sagittal", "any"])
def test_orientations(tmp_path, direction):
    write_series(tmp_path / "src", direction=direction)
    assert_same(tmp_path / "src", tmp_path / "out", 1)


def echoes(folder: Path) -> int:
    ids = one_series()
    for number, echo_time in enumerate((10.0, 60.0)):
        change = set_tags(EchoTime=echo_time, EchoNumbers=number + 1)
        write_series(folder / f"{number}", ramp(seed=number), change=change, **MR, **ids)
    return 2


def dynamics(folder: Path) -> int:
    ids = one_series()
    for number in range(3):

        def change(dataset, k, number=number):
            dataset.TemporalPositionIdentifier = dataset.AcquisitionNumber = number + 1
            dataset.InstanceNumber = 8 * number + k + 1
            dataset.AcquisitionTime = f"1200{10 * number:02d}"

        write_series(folder / f"{number}", ramp(seed=number), change=change, **MR, **ids)
    return 3


def enhanced(folder: Path) -> int:
    folder.mkdir()
    write_enhanced(folder / "a", ramp(), stacked(8))
    return 1


def mosaics(folder: Path) -> int:
    folder.mkdir()
    ids = one_series()
    for number in range(3):

        def change(dataset, number=number):
            dataset.AcquisitionTime = f"1200{10 * number:02d}"

        write_mosaic(
            folder / f"{number}", ramp((16, 16, 11), seed=number), acquisition=number + 1, change=change, **ids
        )
    return 3


@pytest.mark.parametrize("write", [echoes, dynamics, enhanced, mosaics])
def test_volumes(tmp_path, write: Callable[[Path], int]):
    assert_same(tmp_path / "src", tmp_path / "out", write(tmp_path / "src"))


def shift_between(first: sitk.Image, values: np.ndarray, affine: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Estimate the displacement, mm, of another image of the smooth phantom against ours.

    Args:
        first: Our image.
        values: (X, Y, Z) values of the other one.
        affine: Affine of the other one, LPS.
        inside: Which of its voxels to compare.
    """
    index = np.argwhere(inside)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    at = np.linalg.solve(Grid.of(first).steps_mm, (points - first.GetOrigin()).T)
    ours = map_coordinates(sitk.GetArrayFromImage(first).astype(float), at[::-1], order=1)
    slopes = np.stack([(intensities(points + step) - intensities(points - step)) / 2 for step in np.eye(3)], axis=1)
    difference = values[inside] - ours
    assert np.abs(difference).max() <= 6  # both interpolate linearly
    return np.linalg.lstsq(slopes, difference, rcond=None)[0]


RESAMPLED = {
    # dcm2niix rounds the total shift up to whole pixels, and errs by what it adds: here hardly any.
    "tilt": {"heights_mm": EVEN, "shear": (0, 28.99 * 0.8 / np.ptp(EVEN))},
    "backward tilt": SCANS["backward tilt"],
    "two spacings": SCANS["two spacings"],
    "transition": SCANS["transition"],
}


@pytest.mark.parametrize("how", RESAMPLED)
def test_tilted_and_uneven_phantoms(tmp_path, how):
    settings = RESAMPLED[how]
    scan = Scan(tmp_path / "src", **settings)
    if "shear" in settings:
        for path in scan.files:
            dataset = dcmread(path)
            dataset.GantryDetectorTilt = f"{np.degrees(np.arctan(settings['shear'][1])):.6g}"
            dataset.save_as(path)
    theirs = by_dcm2niix(tmp_path / "src", tmp_path / "out")
    (image,) = by_intake(tmp_path / "src")
    (name,) = [name for name in theirs if ("_Tilt" if "shear" in settings else "_Eq") in name]
    values, affine = theirs[name]
    index = np.stack(np.meshgrid(*(np.arange(side) for side in values.shape), indexing="ij"), axis=-1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    inside = scan.covers(points, margin_vox=3)
    inside[..., [0, -1]] = False
    inside &= np.random.default_rng(0).random(inside.shape) < 20_000 / inside.size
    assert inside.sum() > 2_000
    assert np.abs(shift_between(image, values, affine, inside)).max() <= WITHIN_MM
