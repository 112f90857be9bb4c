"""Tests of metrics: against MONAI, values computed by hand, and other implementations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from torch import Tensor

from nnunet_anatomix.registration.landmarks import read_landmarks
from nnunet_anatomix.registration.metrics import folded_share, inverse_error_mm, tre_mm
from nnunet_anatomix.registration.warp import identity, invert, jacobian_determinant
from nnunet_anatomix.scores.overlap import dice_by_label, hd95_mm_by_label, shared_labels
from pretraining.common.errors import InputError


def blobs(seed: int = 0, shape: tuple[int, int, int] = (21, 17, 13), labels: int = 3) -> np.ndarray:
    """Return random cells, thinned out, some cut by the border of the grid."""
    rng = np.random.default_rng(seed)
    places = np.indices(shape).reshape(3, -1).T
    seeds = rng.uniform(0, shape, (labels + 1, 3))
    cells = np.linalg.norm(places[:, None] - seeds, axis=-1).argmin(axis=1).reshape(shape)
    return np.where(rng.uniform(size=shape) < 0.95, cells, 0)


def waves(shape: tuple[int, int, int], height: float) -> Tensor:
    x, y, z = identity(shape)
    return height * torch.stack([torch.sin(y / 3), torch.cos(z / 4), torch.sin(x / 5)])


def one_hot(labels: np.ndarray, number: int = 4) -> Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), number).movedim(-1, 0)[None]


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 3.0, 1.6)])
def test_dice_and_hausdorff_distance_as_monais(spacing_mm):
    fixed, moved = blobs(), np.roll(blobs(), (1, 2, 0), (0, 1, 2))
    dice = compute_dice(one_hot(moved), one_hot(fixed), include_background=False)[0]
    distance = compute_hausdorff_distance(
        one_hot(moved), one_hot(fixed), include_background=False, percentile=95, spacing=spacing_mm
    )[0]
    assert distance.std() > 0.1
    assert dice_by_label(fixed, moved) == pytest.approx(dict(enumerate(dice.tolist(), 1)))
    assert hd95_mm_by_label(fixed, moved, spacing_mm) == pytest.approx(dict(enumerate(distance.tolist(), 1)))


def test_the_distance_of_two_planes_is_in_millimetres():
    fixed, moved = np.zeros((2, 9, 6, 5), dtype=int)
    fixed[2], moved[5] = 7, 7
    assert hd95_mm_by_label(fixed, moved, (1.5, 9, 9)) == {7: 4.5}


def test_a_label_on_one_side_has_no_overlap_and_no_distance():
    fixed, moved = np.zeros((2, 6, 5, 4), dtype=int)
    fixed[1:3], moved[1:3], moved[4] = 5, 5, 2
    assert shared_labels(fixed, moved) == [5]
    assert dice_by_label(fixed, moved) == {2: 0, 5: 1}
    fixed[5], moved[5] = 9, 5
    assert dice_by_label(fixed, moved) == dice_by_label(moved, fixed) == {2: 0, 5: 0.8, 9: 0}
    distances = hd95_mm_by_label(fixed, moved, (1, 1, 1))
    assert list(distances) == [2, 5, 9] and np.isnan([distances[2], distances[9]]).all() and distances[5] == 3


def test_empty_maps_have_no_labels():
    empty = np.zeros((5, 4, 3), dtype=np.uint8)
    assert (
        dice_by_label(empty, empty) == hd95_mm_by_label(empty, empty, (1, 1, 1)) == {}
        and shared_labels(empty, empty) == []
    )


def test_tensors_and_arrays_of_any_type_count_alike():
    fixed, moved = blobs(0), blobs(1)
    for kind in (np.float32, np.uint16):
        assert dice_by_label(torch.from_numpy(fixed).float(), moved.astype(kind)) == dice_by_label(fixed, moved)


def test_label_maps_of_different_grids_are_refused():
    with pytest.raises(InputError, match=r"\(5, 4, 3\) and \(3, 4, 5\) voxels"):
        dice_by_label(np.zeros((5, 4, 3), int), np.zeros((3, 4, 5), int))


def test_landmarks_meet_where_the_transform_takes_them():
    rng = np.random.default_rng(0)
    turn = sitk.Euler3DTransform((3.0, 1.0, -2.0), 0.2, -0.1, 0.3, (5.0, -4.0, 2.0))
    fixed = rng.uniform(-20, 20, (7, 3))
    moving = np.array([turn.TransformPoint(point) for point in fixed.tolist()])
    np.testing.assert_allclose(tre_mm(fixed, moving, turn), 0, atol=1e-9)
    np.testing.assert_allclose(tre_mm(fixed, moving + np.array([0, 3, 4]), turn), 5)
    assert tre_mm(fixed, moving, turn.GetInverse()).min() > 1  # the other direction has a large error


def test_landmarks_come_in_pairs():
    with pytest.raises(InputError, match="3 in the fixed and 2 in the moving"):
        tre_mm(np.zeros((3, 3)), np.zeros((2, 3)), sitk.Transform())


def test_folds_are_where_a_line_runs_backwards():
    """The map x + u(x) = 10 - x folds X from 4 to 6; central differences detect it there."""
    displacement = torch.zeros(3, 11, 6, 5)
    displacement[0, 4:8] = -torch.tensor([0.0, 2.0, 4.0, 6.0])[:, None, None]
    displacement[0, 8:] = -6
    slopes = 1 + np.gradient(displacement[0, :, 0, 0].numpy())
    assert folded_share(displacement) == (slopes < 0).mean() > 0
    only = torch.zeros(11, 6, 5, dtype=torch.bool)
    only[5:7, 2:, 1] = True
    assert folded_share(displacement, only) == 1
    only[0, :, 1] = True
    assert folded_share(displacement, only) == 8 / 14


@pytest.mark.parametrize("side", [2, 16, 17, 35])
def test_slabs_fold_as_the_whole(side):
    displacement = torch.randn(3, side, 6, 5, generator=torch.Generator().manual_seed(side))
    whole = (jacobian_determinant(displacement) < 0).float().mean().item()
    assert folded_share(displacement) == pytest.approx(whole) and whole > 0.05


def test_a_translation_is_undone_exactly_but_for_what_it_takes_off_the_grid():
    shift = torch.tensor([2.0, -1.0, 0.0]).view(3, 1, 1, 1).expand(3, 9, 7, 5)
    assert inverse_error_mm(shift, -shift, (1, 2, 3)) == pytest.approx((0, 0), abs=1e-5)
    # An inverse wrong by a voxel along Z, in the half that counts.
    wrong = -shift.clone()
    wrong[2, :4] += 1
    reached_from = torch.zeros(9, 7, 5, dtype=torch.bool)
    reached_from[:2] = True
    assert inverse_error_mm(shift, wrong, (1, 2, 3), reached_from) == pytest.approx((3, 3), abs=1e-5)
    off = torch.zeros_like(reached_from)
    off[7:] = True
    assert np.isnan(inverse_error_mm(shift, -shift, (1, 2, 3), off)).all()


def test_the_error_of_an_inverse_is_small_where_it_is_one():
    forward = waves((15, 13, 11), 1.0)
    inside = torch.zeros(15, 13, 11, dtype=torch.bool)
    inside[2:-2, 2:-2, 2:-2] = True
    mean, high = inverse_error_mm(forward, invert(forward), (1, 1, 1), inside)
    assert mean <= high < 0.05  # error of interpolation
    assert inverse_error_mm(forward, -forward, (1, 1, 1), inside)[0] > 5 * mean


def test_landmarks_are_read_from_tables_and_from_slicer(tmp_path):
    table, slicer, old = tmp_path / "points.csv", tmp_path / "points.fcsv", tmp_path / "old.fcsv"
    table.write_text('\ufeffname, Z,x ,y\n"a, b",3,1,-2\n\nc,6.5,4,5e1\n', encoding="utf-8")
    head = (
        "# Markups fiducial file version = 4.11\n# CoordinateSystem = {}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc\n"
    )
    slicer.write_text(head.format("LPS") + "1,1,-2,3,0,0,0,1,1,1,0,F-1,\n2,4,50,6.5,0,0,0,1,1,1,0,F-2,\n")
    old.write_text(head.format("0") + "1,-1,2,3,0,0,0,1,1,1,0,F-1,\n2,-4,-50,6.5,0,0,0,1,1,1,0,F-2,\n")
    plain, semicolons, markups = tmp_path / "plain.csv", tmp_path / "s.csv", tmp_path / "p.mrk.json"
    plain.write_text("1,-2,3\n4,50,6.5\n")
    semicolons.write_text("name;x;y;z\na;1;-2,0;3\nb;4;5e1;6,5\n")
    points = [{"position": [-1, 2, 3]}, {"position": [-4, -50, 6.5]}]
    markups.write_text(json.dumps({"markups": [{"coordinateSystem": "RAS", "controlPoints": points}]}))
    for path in (table, slicer, old, plain, semicolons, markups):
        np.testing.assert_array_equal(read_landmarks(path), [[1, -2, 3], [4, 50, 6.5]])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "line 1: expected a header with the columns x,y,z"),
        ("a.csv", "1,2,3,4\n4,5,6,7\n", "line 1: expected a header"),
        ("a.csv", "1,2,3\n4,5\n", "line 2: expected numbers in columns 1, 2, 3"),
        ("a.csv", "x,y,z\n", "holds no landmarks"),
        ("a.csv", "x,y,z\n1,2,3\n4,five,6\n", "line 3: expected numbers in columns 1, 2, 3"),
        ("a.csv", "x,y,z\n1,2\n", "line 2: expected numbers"),
        ("a.csv", "x,y,z\n1,2,inf\n", "line 2: expected numbers"),
        ("a.fcsv", "# columns = id,x,y,z\n1,2,3,4\n", "has no line '# CoordinateSystem"),
        (
            "a.fcsv",
            "# CoordinateSystem = IJK\n1,2,3,4\n",
            "line 1: '# CoordinateSystem = IJK', expected one with LPS, RAS",
        ),
        ("a.fcsv", "# CoordinateSystem = LPS\n\n1,2,3\n", "line 3: expected numbers in columns 2, 3, 4"),
    ],
)
def test_a_bad_file_of_landmarks_is_refused_by_its_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        read_landmarks(tmp_path / name)
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_of_landmarks_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv cannot be read"):
        read_landmarks(tmp_path / "gone.csv")
