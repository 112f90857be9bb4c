"""Tests of applying transforms to files: images, labels, points, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.commands.apply import apply
from nnunet_anatomix.registration.apply import looks_like_labels, move_image, move_labels
from nnunet_anatomix.registration.landmarks import read_points
from nnunet_anatomix.registration.transforms import chain, find_sources, invert_transform, move_points, read_transform
from nnunet_anatomix.registration.warp import itk_transform
from pretraining.common.errors import CommandFailed, InputError, UsageError

SHAPE = (14, 12, 10)
rng = np.random.default_rng(0)


def on_grid(values: np.ndarray, *, spacing=(1.5, 1.2, 2.0), origin=(3.0, -4.0, 5.0), angle=0.0) -> sitk.Image:
    """Return an image of (X, Y, Z) values whose axes are turned about z."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.0, 0.0, angle)
    image.SetDirection(turn.GetMatrix())
    return image


@pytest.fixture(scope="module")
def fixed() -> sitk.Image:
    return on_grid(rng.normal(size=SHAPE).astype(np.float32), angle=0.3)


@pytest.fixture(scope="module")
def transform(fixed) -> sitk.CompositeTransform:
    """Return a smooth displacement on the fixed grid, followed by a start of 1000 mm and a turn."""
    import torch

    x, y, z = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in SHAPE), indexing="ij")
    displacement = 0.6 * torch.stack([torch.sin(y / 3), torch.cos(z / 3), torch.sin(x / 4)])
    start = sitk.Euler3DTransform()
    start.SetRotation(0.1, -0.2, 0.4)
    start.SetTranslation((1000.0, -30.0, 12.0))
    return chain([itk_transform(displacement, fixed), start])


@pytest.fixture
def folder(fixed, transform, tmp_path, monkeypatch) -> Path:
    """Write the transform, the fixed scan and a moving scan where the transform leads."""
    monkeypatch.chdir(tmp_path)
    sitk.WriteTransform(transform, "t.h5")
    sitk.WriteImage(fixed, "fixed.nii.gz")
    centre = transform.TransformPoint(fixed.TransformIndexToPhysicalPoint((0, 0, 0)))
    moving = on_grid(
        rng.integers(-1000, 2000, SHAPE).astype(np.int16), origin=tuple(np.subtract(centre, 6)), spacing=(2, 2, 2.0)
    )
    sitk.WriteImage(moving, "moving.nii.gz")
    return tmp_path


def array(image: sitk.Image | str | Path) -> np.ndarray:
    return sitk.GetArrayFromImage(image if isinstance(image, sitk.Image) else sitk.ReadImage(str(image)))


def inside(fixed: sitk.Image, count: int = 12) -> np.ndarray:
    """Return points at least two voxels inside the grid, mm."""
    indices = 2 + rng.random((count, 3)) * (np.array(SHAPE) - 5)
    return np.array([fixed.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices])


def test_points_move_against_the_transform_inside_and_outside_the_grid(fixed, transform):
    outside = np.array([[500.0, 0, 0], [0, -900.0, 3], [2, 1, 400.0]])
    for points in (inside(fixed), outside):
        found, is_found = find_sources(transform, move_points(transform, points))
        assert is_found.all()
        np.testing.assert_allclose(found, points, atol=1e-3)


def test_points_that_do_not_exist_before_a_fold_are_told(fixed, transform):
    import torch

    x = torch.arange(SHAPE[0], dtype=torch.float32)[:, None, None].expand(SHAPE)
    folding = itk_transform(torch.stack([-3 * (x - 6), 0 * x, 0 * x]), fixed)
    _, is_found = find_sources(folding, inside(fixed))
    assert not is_found.all()


def test_the_inverse_brings_points_back_inside_and_outside_the_grid(fixed, transform):
    inverse = invert_transform(transform)
    for points, tolerance in ((inside(fixed), 0.1), (np.array([[500.0, 0, 0], [0, -900.0, 3]]), 1e-6)):
        np.testing.assert_allclose(move_points(inverse, move_points(transform, points)), points, atol=tolerance)


def test_a_singular_or_unknown_part_has_no_inverse():
    singular = sitk.AffineTransform(3)
    singular.SetMatrix((1, 0, 0, 0, 1, 0, 0, 1, 0))
    with pytest.raises(InputError, match="singular"):
        invert_transform(singular)
    with pytest.raises(InputError, match="no inverse for a BSplineTransform"):
        invert_transform(sitk.BSplineTransform(3, 3))


def test_images_move_as_by_itk_and_keep_their_type(folder, fixed, transform, caplog):
    caplog.set_level(logging.INFO)
    apply(Path("out"), Path("t.h5"), (Path("moving.nii.gz"),), Path("fixed.nii.gz"))
    moved = sitk.ReadImage("out/moving.nii.gz")
    assert moved.GetPixelID() == sitk.sitkInt16 and moved.GetSize() == fixed.GetSize()
    moving = sitk.ReadImage("moving.nii.gz", sitk.sitkFloat64)
    theirs = array(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, float(array(moving).min())))
    assert np.abs(array(moved) - theirs).max() <= 0.51 and array(moved).std() > 100
    assert "moving.nii.gz: by its values a scan" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.uint32, (4_000_000_001, 4_000_000_003)),
        (np.int64, (-(2**60) - 1, 2**60 + 1)),
        (np.uint64, (2**63 + 1, 3)),
        (np.uint8, (1, 255)),
        (np.float64, (2.0, 2.0**40 + 1)),
    ],
)
@pytest.mark.parametrize("inverse", [False, True])
def test_labels_keep_type_and_values(folder, dtype, values, inverse):
    reference, of_labels = ("moving", "fixed") if inverse else ("fixed", "moving")
    grid = sitk.ReadImage(f"{of_labels}.nii.gz")
    labels = sitk.GetImageFromArray(np.array([0, *values], dtype)[rng.integers(0, 3, array(grid).shape)])
    labels.CopyInformation(grid)
    sitk.WriteImage(labels, "labels.nii.gz")
    labels = sitk.ReadImage("labels.nii.gz")
    apply(Path("out"), Path("t.h5"), (Path("labels.nii.gz"),), Path(f"{reference}.nii.gz"), inverse=inverse)
    moved = array("out/labels.nii.gz")
    assert moved.dtype == dtype and {int(value) for value in np.unique(moved)} == {0, *map(int, values)}
    through = read_transform(Path("t.h5"), "transform")
    through = invert_transform(through) if inverse else through
    ones = sitk.GetImageFromArray((array(labels) == dtype(values[0])).astype(np.uint8))
    ones.CopyInformation(labels)
    target = sitk.ReadImage(f"{reference}.nii.gz")
    theirs = sitk.Resample(ones, target, through, sitk.sitkNearestNeighbor, 0.0)
    assert np.array_equal(moved == dtype(values[0]), array(theirs) == 1)


def regions(levels: int) -> np.ndarray:
    """Return (X, Y, Z) blocks of 4 voxels, each with another number."""
    blocks = rng.permutation(levels)[: 6 * 6 * 6].reshape(6, 6, 6)
    return blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2)


def test_labels_are_told_from_scans():
    noise = rng.normal(100, 40, (24, 24, 24))
    air = np.where(np.arange(24) < 15, -1024, noise.round()).astype(np.int16)
    for scan in (noise.astype(np.float32), noise.round().astype(np.int16), noise.round(), air):
        assert not looks_like_labels(on_grid(scan))
    for labels in (regions(216).astype(np.uint8), regions(2000).astype(np.float32), (noise > 100).astype(np.uint8)):
        assert looks_like_labels(on_grid(labels))


def test_the_interpolation_can_be_chosen(folder):
    scan = sitk.ReadImage("moving.nii.gz")
    for how, move in (("linear", move_image), ("nearest", move_labels)):
        apply(Path(how), Path("t.h5"), (Path("moving.nii.gz"),), Path("fixed.nii.gz"), interpolation=how)
        expected = move(scan, sitk.ReadImage("fixed.nii.gz"), read_transform(Path("t.h5"), "transform"))
        assert np.array_equal(array(f"{how}/moving.nii.gz"), array(expected))


HEAD = "# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n# columns = id,x,y,z,label,desc\n"
POINTS = {
    "a.csv": ("name,z,x,y\n" + '"one, two",{2},{0},{1}\n', lambda text: text.splitlines()[1].split(",")[2:]),
    "plain.csv": ("{0},{1},{2}\n", lambda text: text.strip().split(",")),
    "german.csv": (
        "x;y;z;name\n{0};{1};{2};a\n",
        lambda text: [cell.replace(",", ".") for cell in text.splitlines()[1].split(";")[:3]],
    ),
    "s.fcsv": (HEAD + "1,{0},{1},{2},F-1,\n", lambda text: text.splitlines()[3].split(",")[1:4]),
}


def in_order(name: str, cells: list[str]) -> np.ndarray:
    z_first = name == "a.csv"
    numbers = np.array([float(cell) for cell in cells])
    return (numbers[[1, 2, 0]] if z_first else numbers) * ((-1, -1, 1) if name == "s.fcsv" else (1, 1, 1))


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("inverse", [False, True])
def test_tables_of_points_move_and_keep_all_else(folder, fixed, transform, name, inverse):
    at_fixed = inside(fixed, 1)
    at_moving = move_points(transform, at_fixed)
    before, after = (at_fixed[0], at_moving[0]) if inverse else (at_moving[0], at_fixed[0])
    template, parse = POINTS[name]
    numbers = [f"{value:.8f}" for value in before * ((-1, -1, 1) if name == "s.fcsv" else (1, 1, 1))]
    if name == "german.csv":
        numbers = [number.replace(".", ",") for number in numbers]
    Path(name).write_text(template.format(*numbers))
    apply(Path("out"), Path("t.h5"), (Path(name),), inverse=inverse)
    text = (folder / "out" / name).read_text()
    np.testing.assert_allclose(in_order(name, parse(text)), after, atol=1e-3)
    assert ("one, two" in text) == (name == "a.csv")
    assert text.splitlines()[:-1] == template.splitlines()[:-1]
    assert (",F-1," in text) == (name == "s.fcsv") and (";a" in text) == (name == "german.csv")


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_markups_of_slicer_move_and_keep_all_else(folder, fixed, transform, system):
    signs = np.array((1, 1, 1) if system == "LPS" else (-1, -1, 1))
    at_fixed = inside(fixed, 2)
    positions = (move_points(transform, at_fixed) * signs).tolist()
    points = [{"id": str(number), "label": f"Größe {number}", "position": one} for number, one in enumerate(positions)]
    unplaced = {"id": "9", "position": [0, 0, 0], "positionStatus": "undefined"}
    markup = {
        "type": "Line",
        "coordinateSystem": system,
        "coordinateUnits": "mm",
        "controlPoints": [*points, unplaced],
        "measurements": [{"name": "length", "value": 3.0}],
    }
    Path("p.mrk.json").write_text(json.dumps({"@schema": "s", "markups": [markup]}), encoding="utf-8")
    apply(Path("out"), Path("t.h5"), (Path("p.mrk.json"),))
    moved = json.loads(Path("out/p.mrk.json").read_text(encoding="utf-8"))
    found = moved["markups"][0]["controlPoints"]
    np.testing.assert_allclose([np.array(one["position"]) * signs for one in found[:2]], at_fixed, atol=1e-3)
    assert found[2] == unplaced and found[0]["label"] == "Größe 0" and moved["@schema"] == "s"
    assert "measurements" not in moved["markups"][0]


def test_the_given_markups_are_landmarks(data_root):
    points = read_points(data_root.parent / "cases" / "registration" / "p.mrk.json").points_mm
    assert np.array_equal(points, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "expected markups of Slicer"),
        ('{"markups": [{"type": "ROI", "controlPoints": []}]}', "a markup of type ROI"),
        ('{"markups": [{"coordinateSystem": "IJK", "controlPoints": [{"position": [1, 2, 3]}]}]}', "IJK"),
        ('{"markups": [{"controlPoints": [{"position": [1, 2]}]}]}', "three finite numbers"),
        ('{"markups": [{"controlPoints": []}]}', "holds no landmarks"),
    ],
)
def test_other_markups_are_refused_and_nothing_is_written(folder, content, said):
    Path("p.mrk.json").write_text(content)
    with pytest.raises(CommandFailed, match=said) as refused:
        apply(Path("out"), Path("t.h5"), (Path("p.mrk.json"),))
    assert "\n" not in str(refused.value) and not Path("out/p.mrk.json").exists()


def test_a_file_that_fails_does_not_stop_the_others(folder):
    vectors = sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3)
    sitk.WriteImage(vectors, "vectors.nii.gz")
    files = tuple(map(Path, ("gone.nii.gz", "vectors.nii.gz", "moving.nii.gz")))
    with pytest.raises(CommandFailed, match="2 of 3 files failed"):
        apply(Path("out"), Path("t.h5"), files, Path("fixed.nii.gz"))
    assert Path("out/moving.nii.gz").exists() and "no such file gone.nii.gz" in Path("out/failed.csv").read_text()
    with pytest.raises(CommandFailed, match="pass one with --reference"):
        apply(Path("out"), Path("t.h5"), (Path("moving.nii.gz"),))


def test_no_input_is_replaced_and_no_name_written_twice(folder):
    before = Path("moving.nii.gz").read_bytes()
    with pytest.raises(InputError, match="is an input"):
        apply(Path(), Path("t.h5"), (Path("moving.nii.gz"),), Path("fixed.nii.gz"))
    Path("b").mkdir()
    Path("b/moving.nii.gz").write_bytes(before)
    with pytest.raises(InputError, match=r"two files would be written as moving\.nii\.gz"):
        apply(Path("out"), Path("t.h5"), (Path("moving.nii.gz"), Path("b/moving.nii.gz")), Path("fixed.nii.gz"))
    assert Path("moving.nii.gz").read_bytes() == before


def test_a_batch_is_read_from_a_csv(folder):
    Path("list.csv").write_text("transform,to,reference,name\nt.h5,moving.nii.gz,fixed.nii.gz,one\nt.h5,p.csv,,\n")
    Path("p.csv").write_text("1,2,3\n")
    apply(Path("out"), batch=Path("list.csv"))
    assert {path.name for path in Path("out").iterdir() if path.suffix != ".lock"} == {"one.nii.gz", "002_p.csv"}
    with pytest.raises(UsageError, match="with --batch"):
        apply(Path("out"), Path("t.h5"), batch=Path("list.csv"))
    with pytest.raises(UsageError, match="expected a transform and files"):
        apply(Path("out"))


def test_transforms_of_other_kinds_are_refused(folder):
    sitk.WriteTransform(sitk.Euler2DTransform(), "flat.tfm")
    bad = sitk.TranslationTransform(3, (float("nan"), 0.0, 0.0))
    sitk.WriteTransform(bad, "nan.h5")
    Path("empty").mkdir()
    for name, said in (
        ("flat.tfm", "2 dimensions"),
        ("nan.h5", "NaN"),
        ("fixed.nii.gz", "neither a transform"),
        ("empty", r"no such file empty/forward\.h5"),
    ):
        with pytest.raises(CommandFailed, match=said):
            apply(Path("out"), Path(name), (Path("moving.nii.gz"),), Path("fixed.nii.gz"))
