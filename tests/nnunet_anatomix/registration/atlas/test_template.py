"""Tests of groupwise alignment: known poses, given atlas, failures and resuming."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.linalg import expm, logm

from nnunet_anatomix.commands.align import align
from nnunet_anatomix.registration.atlas.align import align_scans
from nnunet_anatomix.registration.atlas.scan_list import read_atlas_scans
from nnunet_anatomix.registration.atlas.template import affine_transform, homogeneous, mean_pose
from pretraining.common.errors import CommandFailed, InputError
from pretraining.imaging.grids import resample_image, same_grid

SHAPE, SPACING_MM = (40, 34, 44), 1.5
NAMES = ("a", "b", "c", "d")


def poses() -> list[np.ndarray]:
    """Return affine poses about the centre whose mean is far from the identity."""
    rng = np.random.default_rng(3)
    centre = np.eye(4)
    centre[:3, 3] = (np.array(SHAPE) - 1) / 2 * SPACING_MM
    found = []
    for _ in NAMES:
        generator = np.zeros((4, 4))
        generator[:3] = np.column_stack([rng.normal(0.02, 0.05, (3, 3)), rng.normal(2, 3, 3)])
        found.append(centre @ expm(generator) @ np.linalg.inv(centre))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write blobs in four poses with labels, and ``scans.csv`` in another order."""
    folder = tmp_path_factory.mktemp("scans")
    wide = sitk.GetImageFromArray(_blobs())
    wide.SetSpacing([SPACING_MM] * 3)
    wide.SetOrigin([-12 * SPACING_MM] * 3)
    grid = sitk.Image(SHAPE, sitk.sitkUInt8)
    grid.SetSpacing([SPACING_MM] * 3)
    for name, pose in zip(NAMES, poses(), strict=True):
        scan = resample_image(wide, grid, affine_transform(pose))
        sitk.WriteImage(scan * 50 - 20, str(folder / f"{name}.nii.gz"))
        sitk.WriteImage(sitk.Cast(scan > 0.8, sitk.sitkUInt8), str(folder / f"{name}_labels.nii.gz"))
    rows = [f"{name}.nii.gz,{name}_labels.nii.gz" for name in NAMES]
    (folder / "scans.csv").write_text("\n".join(["scan,labels", *rows]) + "\n")
    return folder


def _blobs() -> np.ndarray:
    """Return a (Z, Y, X) array of blobs."""
    noise = np.random.default_rng(0).normal(size=[side + 24 for side in reversed(SHAPE)])
    smooth = ndimage.gaussian_filter(noise, 3)
    return (smooth / smooth.std()).astype(np.float32)


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made")
    align(folder / "scans.csv", out, weights="none", device="cpu")
    return out


def found_poses(out: Path, names: tuple[str, ...] = NAMES) -> list[np.ndarray]:
    return [homogeneous(sitk.ReadTransform(str(out / f"{name}_affine.tfm"))) for name in names]


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def files(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def spread_mm(to_blobs: list[np.ndarray]) -> float:
    """Compute the greatest distance between points of two scans at one point of the atlas, mm."""
    inside = np.array(np.meshgrid(*[[0.2 * side, 0.8 * side] for side in SHAPE])).reshape(3, -1) * SPACING_MM
    points = np.array([(pose @ np.vstack([inside, np.ones(inside.shape[1])]))[:3] for pose in to_blobs])
    return max(np.linalg.norm(one - other, axis=0).max() for one, other in combinations(points, 2))


def test_the_mean_pose_is_unbiased_and_needs_no_coordinates():
    mean = mean_pose(poses())
    assert np.abs(sum(logm(pose @ np.linalg.inv(mean)) for pose in poses())).max() < 1e-8
    other = np.array([[2, 0.5, 0, 9], [0, 1, 0.1, -4], [0, 0, 3, 100], [0, 0, 0, 1]])
    assert np.allclose(mean_pose([pose @ other for pose in poses()]), mean @ other, atol=1e-8)
    assert np.allclose(mean_pose([np.linalg.inv(pose) for pose in poses()]), np.linalg.inv(mean), atol=1e-8)


def test_scans_agree_in_the_mean_of_their_poses(made):
    known = poses()
    assert spread_mm(known) > 5 * SPACING_MM
    found = found_poses(made)
    assert spread_mm([pose @ one for pose, one in zip(known, found, strict=True)]) < SPACING_MM
    assert np.abs(sum(map(logm, found))).max() < 1e-6
    scans = [array(made / f"{name}_aligned.nii.gz") for name in NAMES]
    seen = np.all([scan > scan.min() for scan in scans], axis=0)
    assert seen.mean() > 0.3
    assert np.corrcoef([scan[seen] for scan in (*scans, array(made / "atlas.nii.gz"))]).min() > 0.95
    labels = [array(made / f"{name}_labels.nii.gz")[seen] > 0 for name in NAMES]
    assert min(2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in combinations(labels, 2)) > 0.85
    atlas = array(made / "atlas.nii.gz")
    assert 0 <= atlas.min() < 0.3 and 0.7 < atlas.max() <= 1
    state = json.loads((made / "alignment.json").read_text())
    agreement = [min(state[stage][name]["agreement"] for name in NAMES) for stage in ("round 1", "round 2")]
    assert agreement[1] > agreement[0] > 0


def test_a_rerun_does_nothing_and_an_interrupted_one_goes_on(folder, made):
    before = files(made)
    align(folder / "scans.csv", made, weights="none", device="cpu")
    assert files(made) == before
    state = json.loads((made / "alignment.json").read_text())
    del state["round 2"]["d"]
    (made / "alignment.json").write_text(json.dumps(state))
    assert align_scans(read_atlas_scans(folder / "scans.csv"), made) == 1
    assert {name for name, time in files(made).items() if before[name] != time} == {"alignment.json"}


def test_a_given_atlas_keeps_its_grid(folder, tmp_path):
    (tmp_path / "scans.csv").write_text(f"scan\n{folder / 'a.nii.gz'}\n")
    align(tmp_path / "scans.csv", tmp_path, atlas=folder / "b.nii.gz", weights="none", device="cpu")
    atlas = sitk.ReadImage(str(folder / "b.nii.gz"))
    assert np.array_equal(array(tmp_path / "atlas.nii.gz"), sitk.GetArrayFromImage(atlas))
    assert same_grid(sitk.ReadImage(str(tmp_path / "a_aligned.nii.gz")), atlas)
    a, b, *_ = poses()
    assert spread_mm([b, a @ found_poses(tmp_path, ("a",))[0]]) < SPACING_MM


def test_other_groups_follow_the_first_and_a_broken_scan_holds_up_nothing(folder, tmp_path):
    sitk.WriteImage(sitk.ReadImage(str(folder / "c.nii.gz")) * -3, str(tmp_path / "mr.nii.gz"))
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    rows = ["broken.nii.gz,,ct", f"{folder / 'a.nii.gz'},-150 150,ct", "mr.nii.gz,,mr"]
    (tmp_path / "scans.csv").write_text("\n".join(["scan,clip,group", *rows]) + "\n")
    before = []
    for _ in range(2):
        with pytest.raises(CommandFailed, match=r"1 of 3 scans failed .*: broken: .*damaged"):
            align(tmp_path / "scans.csv", tmp_path / "out", rounds=1, weights="none", device="cpu")
        before.append(files(tmp_path / "out"))
    assert before[0] == before[1]
    a, mr = found_poses(tmp_path / "out", ("a", "mr"))
    assert np.allclose(a, np.eye(4), atol=1e-6)
    assert spread_mm([poses()[0], poses()[2] @ mr]) < SPACING_MM
    assert array(tmp_path / "out" / "mr_aligned.nii.gz").min() < -60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.nii\n", "columns scan .*found file"),
        ("scan\nx/a.nii\ny/a.nii.gz\n", "a second row is named 'a'"),
        ("scan,clip\na.nii,450\n", "two numbers"),
        ("scan,clip\na.nii,450 -450\n", "the lower one first"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "scans.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_atlas_scans(tmp_path / "scans.csv")
    assert "\n" not in str(error.value)
