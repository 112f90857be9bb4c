"""Test windows in different poses: content, and correspondence on every grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNetConfig
from pretraining.engine.synthesis import EngineConfig, Pair, synthesize_pair
from pretraining.imaging.interpolation import interpolate_at
from pretraining.learning.objectives.choice import ObjectiveConfig, compute_losses
from pretraining.learning.objectives.contrastive import ContrastiveConfig, ContrastiveModel
from pretraining.learning.objectives.moved_views import MovedViews, PoseConfig, common_box, move_views
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.train_config import TrainConfig
from pretraining.templates.procedural import procedural_bank

SIDE, APART = 24, 8


def places(side: int) -> Tensor:
    """Return (side, side, side) voxel numbers."""
    return torch.arange(float(side**3)).view(side, side, side)


def sample() -> Pair:
    """Return a sample whose views show the number of each voxel."""
    return Pair(labels=places(SIDE), views=places(SIDE).expand(2, -1, -1, -1))


def moved(seed: int) -> MovedViews:
    return move_views(sample(), APART, torch.Generator().manual_seed(seed))


def test_windows_lie_apart_by_what_is_said_and_labels_are_the_first_ones():
    shifts = []
    for seed in range(200):
        labels, views, shift, matrix, *_ = moved(seed)
        assert np.array_equal(matrix, np.column_stack([np.eye(3), shift]))
        assert labels.shape == (SIDE - APART,) * 3 and torch.equal(labels, views[0])
        apart = shift[0] * SIDE**2 + shift[1] * SIDE + shift[2]
        assert torch.equal(views[0] - views[1], torch.full_like(labels, apart))
        shifts.extend(shift)
    assert min(shifts) == -APART and max(shifts) == APART


def test_without_a_shift_nothing_is_cut_off():
    labels, views, shift, *_ = move_views(sample(), 0, torch.Generator())
    assert shift == (0, 0, 0) and torch.equal(labels, sample().labels) and torch.equal(views, sample().views)


def places_of_both(windows: MovedViews, level: int, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (n, C) features of either view at all voxels of the common box."""
    box = common_box(windows, level)
    return box.features_of_both(features, torch.arange(box.labels.numel())).unbind()


@pytest.mark.parametrize("seed", range(10))
def test_both_show_the_same_places_at_full_resolution(seed):
    windows = moved(seed)
    first, second = places_of_both(windows, 0, windows.views[:, None])
    labels = common_box(windows, 0).labels
    assert torch.equal(first, second) and torch.equal(first[:, 0], labels.flatten())
    assert labels.shape == tuple(SIDE - APART - abs(shift) for shift in windows.shift_vox)


def coordinates() -> Tensor:
    """Return (3, SIDE, SIDE, SIDE) voxel indices along each axis."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(SIDE))] * 3, indexing="ij"))


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    "pose",
    [
        None,
        PoseConfig(share=1.0, max_rotation_deg=20, max_scale=0.1),
        PoseConfig(share=1.0, bend_std_vox=1.0, bend_spacing_vox=12.0),
    ],
    ids=["shifted", "turned", "bent"],
)
@pytest.mark.parametrize("seed", range(5))
def test_on_all_grids_places_agree_to_half_a_voxel(seed, level, pose):
    step = 2**level
    errors = []
    for along in coordinates():
        windows = move_views(Pair(along, along.expand(2, -1, -1, -1)), APART, torch.Generator().manual_seed(seed), pose)
        features = functional.avg_pool3d(windows.views[:, None], step)
        first, second = places_of_both(windows, level, features)
        errors.append(first - second)
    # Half a voxel along each axis of the second view, which may be turned; its outermost voxels may
    # show the sample's repeated border.
    reach = 0.5 * step if pose is None else 0.5 * step * 1.1 * 3**0.5
    far = torch.cat(errors, dim=1).norm(dim=1) > reach * 3**0.5
    assert far.float().mean() <= (0 if pose is None else 0.02)


@pytest.mark.parametrize("seed", range(20))
def test_what_lies_in_the_common_box_lies_inside_the_second_view(seed):
    windows = move_views(
        sample(), APART, torch.Generator().manual_seed(seed), PoseConfig(share=1.0, max_rotation_deg=25, max_scale=0.2)
    )
    for level in range(4):
        box = common_box(windows, level)
        places = box.places(torch.arange(box.labels.numel()))
        exact = box.counterparts(places)
        torch.testing.assert_close(box.origins(exact), places.float(), atol=1e-3, rtol=0)
        there = exact.round().long()
        assert there.min() >= 0 and (there < torch.tensor(box.shape)).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_bent_view_shows_what_its_displacement_says(seed):
    pose = PoseConfig(share=1.0, bend_std_vox=1.5, bend_spacing_vox=12.0)
    shown = [
        move_views(Pair(along, along.expand(2, -1, -1, -1)), APART, torch.Generator().manual_seed(seed), pose)
        for along in coordinates()
    ]
    windows, box = shown[0], common_box(shown[0], 0)
    assert windows.bend.std() > 0.5
    assert windows.bend.abs().max() <= windows.bend_bound_vox
    places = box.places(torch.arange(box.labels.numel()))
    exact = box.counterparts(places)
    torch.testing.assert_close(box.origins(exact), places.float(), atol=0.02, rtol=0)
    first = torch.stack([each.views[0] for each in shown])
    second = torch.stack([each.views[1] for each in shown])
    there = interpolate_at(second, [along[:, None, None] for along in exact.T]).flatten(1)
    here = first[:, places[:, 0], places[:, 1], places[:, 2]]
    close = (there - here).norm(dim=0) < 0.3  # all but those at the edge of the sample
    assert close.float().mean() > 0.85


def test_a_pose_is_drawn_as_often_as_it_is_asked_for():
    turned = [
        not np.array_equal(
            move_views(sample(), APART, torch.Generator().manual_seed(seed), PoseConfig(share=0.3)).matrix[:, :3],
            np.eye(3),
        )
        for seed in range(300)
    ]
    assert 0.2 < np.mean(turned) < 0.4


def test_moved_views_depend_on_the_index_alone_and_their_loss_reaches_the_whole_encoder():
    model = build(
        lambda: ContrastiveModel(
            UNetConfig(width=4, poolings=2), ProjectionConfig(width=16), ContrastiveConfig(max_shift_vox=16)
        ),
        torch.Generator().manual_seed(0),
    )
    pair = synthesize_pair(procedural_bank(8), EngineConfig(side=48), seed=0, index=0)
    losses = compute_losses(model, pair, 3, 0)
    assert losses.isfinite().all() and torch.equal(losses, compute_losses(model, pair, 3, 0))
    assert not torch.equal(losses, compute_losses(model, pair, 4, 0))
    losses.sum().backward()
    assert all(
        parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.backbone.encoder.parameters()
    )


def config(side: int, max_shift_vox: int) -> TrainConfig:
    objective = ObjectiveConfig(contrastive=ContrastiveConfig(max_shift_vox=max_shift_vox))
    return TrainConfig(engine=EngineConfig(side=side), objective=objective)


def test_windows_that_the_network_cannot_halve_or_that_never_meet_are_refused():
    config(96, 32)
    with pytest.raises(ValueError, match=r"less .*max_shift_vox, must be a multiple of 16"):
        config(96, 20)
    with pytest.raises(ValueError, match="below the windows of 32 voxels"):
        config(96, 64)
    with pytest.raises(ValueError, match="max_shift_vox: expected a number of at least 0"):
        ContrastiveConfig(max_shift_vox=-1)
