"""Tests of SyN: known warps are recovered, in our convention, and no files are left."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.solvers import ants as solver
from nnunet_anatomix.registration.solvers.ants import AntsConfig, syn_displacement
from nnunet_anatomix.registration.warp import compose, identity, warp
from pretraining.common.errors import CommandFailed, InputError
from pretraining.imaging.grids import image_tensor

SHAPE = (32, 28, 24)
QUICK = AntsConfig(iterations=(20, 10), shrink_factors=(2, 1), smoothing_sigmas_vox=(1, 0))
INSIDE = (slice(None), *(slice(4, -4),) * 3)


@pytest.fixture(autouse=True, scope="module")
def _antspyx() -> None:
    if importlib.util.find_spec("ants") is None:
        reason = "antspyx is not installed; run: pip install antspyx"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def oblique_grid() -> sitk.Image:
    """Return an anisotropic, rotated, left-handed grid, to detect errors of axes and units."""
    grid = sitk.Image(SHAPE, sitk.sitkFloat32)
    grid.SetSpacing((1, 2, 1.5))
    grid.SetOrigin((-100, 40, 7))
    rotation = np.array([[np.cos(0.5), -np.sin(0.5), 0], [np.sin(0.5), np.cos(0.5), 0], [0, 0, 1]])
    grid.SetDirection((rotation @ np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]]) @ np.diag([1, 1, -1])).ravel())
    return grid


def blobs(position: Tensor, seed: int) -> Tensor:
    """Sum 30 random Gaussians at (3, X, Y, Z) positions; (X, Y, Z), about in [0, 1]."""
    generator = np.random.default_rng(seed)
    centres = torch.tensor(generator.uniform(0.1, 0.9, (30, 3)) * SHAPE, dtype=torch.float32)
    heights, widths = generator.uniform(0.3, 1, 30), generator.uniform(2, 4, 30)
    return sum(
        float(height) * torch.exp(-(position - centre[:, None, None, None]).square().sum(0) / (2 * float(width) ** 2))
        for centre, height, width in zip(centres, heights, widths, strict=True)
    )


def true_displacement() -> Tensor:
    """Return a (3, X, Y, Z) displacement, voxels, 0 on the border, different along every axis."""
    here = identity(SHAPE)
    bump = torch.stack([torch.sin(np.pi * here[axis] / (side - 1)) for axis, side in enumerate(SHAPE)]).prod(0)
    return bump * torch.tensor([2.5, -1.2, 1.8])[:, None, None, None]


def pair(channels: int) -> tuple[Tensor, Tensor]:
    """Return (C, X, Y, Z) images, exactly related by :func:`true_displacement`."""
    here, there = identity(SHAPE), identity(SHAPE) + true_displacement()
    return tuple(torch.stack([blobs(position, channel) for channel in range(channels)]) for position in (there, here))


def error(displacement: Tensor) -> float:
    """Compute the mean distance to the true displacement away from the border, voxels."""
    return (displacement - true_displacement())[INSIDE].norm(dim=0).mean().item()


@pytest.fixture(scope="module")
def inverted_contrast(tmp_path_factory):
    """Return fixed, moving, forward, inverse, and the image that ANTs itself moved."""
    folder = tmp_path_factory.mktemp("ants")
    fixed, moving = pair(1)
    moving = 1 - moving
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "TemporaryDirectory", lambda **_: contextlib.nullcontext(folder))
        original = solver._arguments
        patch.setattr(
            solver, "_arguments", lambda *given: ["[./,moved.nii]" if a == "[./]" else a for a in original(*given)]
        )
        forward, inverse = syn_displacement(fixed, moving, oblique_grid(), metric="mi", config=QUICK, threads=1)
    return fixed, moving, forward, inverse, image_tensor(sitk.ReadImage(str(folder / "moved.nii")))


def test_mutual_information_recovers_a_warp_across_contrasts(inverted_contrast):
    _, _, forward, _, _ = inverted_contrast
    assert forward.shape == (3, *SHAPE) and forward.dtype == torch.float32
    assert error(forward) < 0.5 * error(torch.zeros_like(forward))


def test_forward_and_inverse_undo_each_other(inverted_contrast):
    _, _, forward, inverse, _ = inverted_contrast
    assert compose(forward, inverse)[INSIDE].norm(dim=0).max() < 0.1
    assert compose(inverse, forward)[INSIDE].norm(dim=0).max() < 0.1


def test_our_moved_image_is_that_of_ants(inverted_contrast):
    _, moving, forward, _, moved = inverted_contrast
    assert (warp(moving, forward)[0] - moved).abs().max() < 1e-4


def test_mean_squares_of_channels_recover_a_warp():
    fixed, moving = pair(3)
    iterations = []
    forward, _ = syn_displacement(
        fixed,
        moving,
        oblique_grid(),
        metric="mean_squares",
        config=QUICK,
        threads=1,
        progress=lambda: iterations.append(1),
    )
    assert error(forward) < 0.2 * error(torch.zeros_like(forward))
    assert 2 <= len(iterations) <= sum(QUICK.iterations)


def test_masks_hide_what_they_exclude_and_a_seed_fixes_the_result():
    config = AntsConfig(iterations=(8,), shrink_factors=(1,), smoothing_sigmas_vox=(0,))
    fixed, moving = pair(1)
    # Flip values instead of erasing them, since ANTs rescales an image by its extremes, also
    # outside the mask.
    elsewhere = torch.cat([moving[:, :22], moving[:, 22:].flip(2)], dim=1)
    mask = torch.zeros(SHAPE)
    mask[:14] = 1

    def forward(other: Tensor, **options: object) -> Tensor:
        return syn_displacement(
            fixed, other, oblique_grid(), metric="mean_squares", config=config, threads=1, **options
        )[0]

    masked = forward(moving, fixed_mask=mask, moving_mask=mask)
    assert masked[:, :14].abs().max() > 0.5
    assert torch.equal(masked, forward(elsewhere, fixed_mask=mask, moving_mask=mask))
    assert not torch.equal(masked, forward(moving, fixed_mask=mask, moving_mask=mask, seed=1))
    alone = forward(moving, moving_mask=mask)
    assert alone[:, :14].abs().max() > 0.5 and alone[:, 24:].abs().max() < 0.01


def test_a_failure_is_one_line_and_leaves_no_files(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    constant = torch.ones(1, *SHAPE)
    with pytest.raises(CommandFailed, match=r"exit code 1: .*Joint PDF summed to zero") as failed:
        syn_displacement(constant, constant, oblique_grid(), metric="mi", config=QUICK, threads=1)
    assert "\n" not in str(failed.value)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        syn_displacement(*pair(1), oblique_grid(), metric="mi", config=QUICK, threads=1, progress=interrupt)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_bad_input_is_refused_before_anything_runs(monkeypatch):
    fixed, moving = pair(1)
    monkeypatch.setattr(solver, "_run", lambda *_: pytest.fail("ANTs was started"))

    def attempt(other: Tensor, **options: object) -> Callable:
        return lambda: syn_displacement(fixed, other, oblique_grid(), metric="mi", **options)

    with pytest.raises(ValueError, match="of one shape on a grid of"):
        attempt(moving[:, :-1])()
    with pytest.raises(InputError, match="moving mask"):
        attempt(moving, moving_mask=torch.zeros(SHAPE))()
    monkeypatch.setattr(solver, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install antspyx"):
        attempt(moving)()


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": (200, 100)},
        {"iterations": (), "shrink_factors": (), "smoothing_sigmas_vox": ()},
        {"iterations": (200, 200, -1)},
        {"shrink_factors": (3, 2, 0)},
        {"smoothing_sigmas_vox": (3, 2, -1)},
        {"gradient_step": 0},
        {"feature_weight": 0},
        {"sampling": 0},
        {"sampling": 1.1},
        {"mi_bins": 4},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(InputError, match=r"^(SyN|\w+: expected (a number|numbers) )"):
        AntsConfig(**wrong)


def test_defaults_are_the_commands_of_the_paper():
    words = " ".join(solver._arguments(AntsConfig(), "mi", 1, True, 0))
    for option in (
        *(
            "--dimensionality 3",
            "--float 1",
            "--transform SyN[0.15]",
            "--metric MI[fixed0.nii,moving0.nii,1,48,Random,0.666]",
        ),
        *(
            "--convergence 200x200x100",
            "--shrink-factors 3x2x1",
            "--smoothing-sigmas 3x2x0vox",
            "--masks [fixed_mask.nii,moving_mask.nii]",
        ),
    ):
        assert option in words
    features = solver._arguments(AntsConfig(), "mean_squares", 16, False, 0)
    assert features.count("--metric") == 16 and "--masks" not in features
    assert "MeanSquares[fixed15.nii,moving15.nii,0.1,1,Random,0.666]" in features
