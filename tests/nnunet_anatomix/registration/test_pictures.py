"""Tests of figures of a registration: orientation, panels and unusual scans."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from skimage.io import imread

from nnunet_anatomix.registration.pictures import COLUMNS, checkerboard, draw_panels, panels
from pretraining.common.errors import InputError


def scan(array_xyz: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_xyz.transpose(2, 1, 0)).astype(np.float32))
    image.SetSpacing(spacing_mm)
    return image


def body(shape: tuple[int, int, int] = (26, 22, 18)) -> np.ndarray:
    """Return an ellipsoid with a bright spot on the patient's left, front and low (LPS)."""
    places = np.indices(shape).astype(float)
    centre = (np.array(shape) - 1).reshape(3, 1, 1, 1) / 2
    volume = 300.0 * ((((places - centre) / (0.45 * np.array(shape).reshape(3, 1, 1, 1))) ** 2).sum(axis=0) < 1)
    x, y, z = shape
    volume[x // 2 : x * 4 // 5, y // 5 : y * 5 // 9, z // 5 : z * 5 // 9] = 1000
    return volume


@pytest.mark.parametrize("shape", [(5, 9), (16, 16), (23, 7), (1, 1)])
@pytest.mark.parametrize("squares", [1, 4, 8])
def test_a_checkerboard_takes_every_pixel_from_one_of_two_and_the_other_board_takes_the_rest(shape, squares):
    first, second = np.random.default_rng(0).uniform(size=(2, *shape))
    board, other = checkerboard(first, second, squares), checkerboard(second, first, squares)
    np.testing.assert_allclose(board + other, first + second)
    assert ((board == first) | (board == second)).all() and board[0, 0] == first[0, 0]
    np.testing.assert_array_equal(checkerboard(torch.from_numpy(first), torch.from_numpy(second), squares), board)


def test_neighbouring_squares_alternate():
    board = checkerboard(np.zeros((8, 16)), np.ones((8, 16)), squares=8)
    np.testing.assert_array_equal(board[::2, ::2], np.indices((4, 8)).sum(axis=0) % 2)
    assert (board == np.kron(board[::2, ::2], np.ones((2, 2)))).all()


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_patients_lie_as_radiologists_have_them_however_the_file_does(orientation):
    """Spot: right and up from below, right and down from the front, left and down from the side."""
    views = panels(*[sitk.DICOMOrient(scan(body()), orientation)] * 3)
    for view, (right, down) in {"axial": (True, False), "coronal": (True, True), "sagittal": (False, True)}.items():
        picture = views[view][1]
        offset = np.argwhere(picture > 0.9).mean(axis=0) - np.argwhere(picture > 0.2).mean(axis=0)
        assert np.abs(offset).min() > 10
        assert (offset > 0).tolist() == [down, right]


def test_thick_slices_are_as_tall_as_they_are():
    thick = panels(*[scan(body((24, 20, 24))[:, :, ::4], (1.0, 1.0, 4.0))] * 3)
    thin = panels(*[scan(body((24, 20, 24)))] * 3)
    for view in ("axial", "coronal", "sagittal"):
        assert thick[view][0].shape == thin[view][0].shape
        assert np.abs(thick[view][0] - thin[view][0]).mean() < 0.1


def test_each_panel_shows_what_its_title_says():
    fixed, before, after = scan(body()), scan(np.roll(body(), 4, axis=0)), scan(1000 - body())
    for row in panels(fixed, before, after).values():
        shown = dict(zip(COLUMNS, row, strict=True))
        for when in ("before", "after"):
            moving = shown[f"moving, {when}"]
            assert np.abs(moving - shown["fixed"]).max() > 0.5
            np.testing.assert_array_equal(shown[f"checkerboard, {when}"], checkerboard(shown["fixed"], moving))


def test_edges_are_those_of_the_fixed_scan_before_and_after():
    there, nothing = scan(body()), scan(np.zeros((26, 22, 18)))
    for row in panels(there, nothing, scan(np.roll(body(), 4, axis=0))).values():
        edges = [picture[..., 0] - picture[..., 2] > 0.5 for picture in row[5:]]
        assert edges[0].sum() > 100
        np.testing.assert_array_equal(*edges)
        # Edges lie between light and dark.
        slope = np.linalg.norm(np.gradient(row[0]), axis=0)
        assert slope[edges[0]].mean() > 5 * slope.mean()
    for row in panels(nothing, there, there).values():
        assert not any((picture[..., 0] - picture[..., 2] > 0.5).any() for picture in row[5:])


@pytest.mark.parametrize(
    "kind", ["constant", "not a number", "two values", "one voxel", "one slice", "one line", "Hounsfield"]
)
def test_no_scan_is_too_odd(tmp_path, kind):
    volume = {
        "constant": np.full((9, 8, 7), 3.0),
        "not a number": np.full((9, 8, 7), np.nan),
        "two values": (np.indices((9, 8, 7))[0] > 4) * 1.0,
        "one voxel": np.pad(np.ones((1, 1, 1)), 3),
        "one slice": body()[:, :, 9:10],
        "one line": body()[:, 11:12, 9:10],
        "Hounsfield": body() - 1000,
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_panels(tmp_path / "a.png", panels(*[scan(volume)] * 3), title=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and imread(tmp_path / "a.png").std() > 0


def test_images_off_the_fixed_grid_are_refused_and_nothing_is_written(tmp_path):
    fixed, smaller, shifted = scan(body()), scan(body((9, 8, 7))), scan(body())
    shifted.SetOrigin((0.0, 0.5, 0.0))
    for before, after, role in ((smaller, fixed, "before"), (fixed, shifted, "after")):
        with pytest.raises(InputError, match=f"the moving image {role} registration is not on the fixed grid"):
            draw_panels(tmp_path / "a.png", panels(fixed, before, after))
    assert not list(tmp_path.iterdir())
