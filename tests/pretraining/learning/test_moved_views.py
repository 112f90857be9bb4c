"""Windows that lie apart: they show the sample, and what both show is the same place on every grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pretraining.backbone.unet import UNetConfig
from pretraining.engine.shapes import procedural_bank
from pretraining.engine.synthesis import EngineConfig, Pair, synthesize_pair
from pretraining.learning.initialization import build
from pretraining.learning.model import ContrastiveConfig, ContrastiveModel
from pretraining.learning.moved_views import MovedViews, common_part, move_views
from pretraining.learning.objective import ObjectiveConfig
from pretraining.learning.projection import ProjectionConfig
from pretraining.learning.state import losses_of
from pretraining.learning.train_config import TrainConfig

SIDE, APART = 24, 8


def places(side: int) -> Tensor:
    """(side, side, side), the number of each voxel."""
    return torch.arange(float(side**3)).view(side, side, side)


def sample() -> Pair:
    """Both views show the number of each voxel."""
    return Pair(labels=places(SIDE), views=places(SIDE).expand(2, -1, -1, -1))


def moved(seed: int) -> MovedViews:
    return move_views(sample(), APART, torch.Generator().manual_seed(seed))


def test_windows_lie_apart_by_what_is_said_and_labels_are_the_first_ones():
    shifts = []
    for seed in range(200):
        labels, views, shift = moved(seed)
        assert labels.shape == (SIDE - APART,) * 3 and torch.equal(labels, views[0])
        apart = shift[0] * SIDE**2 + shift[1] * SIDE + shift[2]
        assert torch.equal(views[0] - views[1], torch.full_like(labels, apart))
        shifts.extend(shift)
    assert min(shifts) == -APART and max(shifts) == APART


def test_without_a_shift_nothing_is_cut_off():
    labels, views, shift = move_views(sample(), 0, torch.Generator())
    assert shift == (0, 0, 0) and torch.equal(labels, sample().labels) and torch.equal(views, sample().views)


@pytest.mark.parametrize("seed", range(10))
def test_both_show_the_same_places_at_full_resolution(seed):
    windows = moved(seed)
    labels, features = common_part(windows, windows.views[:, None], level=0)
    assert torch.equal(features[0], features[1]) and torch.equal(features[0, 0], labels)
    assert labels.shape == tuple(SIDE - APART - abs(shift) for shift in windows.shift_vox)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_on_coarse_grids_places_agree_to_half_a_voxel(seed, level):
    step = 2**level
    along = torch.stack(torch.meshgrid(*[torch.arange(float(SIDE))] * 3, indexing="ij"))
    for axis in range(3):
        windows = move_views(Pair(along[axis], along[axis].expand(2, -1, -1, -1)), APART, torch.Generator().manual_seed(seed))
        labels, features = common_part(windows, windows.views[:, None, ::step, ::step, ::step], level)
        assert torch.equal(features[0, 0], labels) and labels.numel()
        assert (features[0] - features[1]).abs().max() <= step / 2


def test_moved_views_depend_on_the_index_alone_and_their_loss_reaches_the_whole_encoder():
    model = build(
        lambda: ContrastiveModel(UNetConfig(width=4, poolings=2), ProjectionConfig(width=16), ContrastiveConfig(max_shift_vox=16)),
        torch.Generator().manual_seed(0),
    )
    pair = synthesize_pair(procedural_bank(8), EngineConfig(side=48), seed=0, index=0)
    losses = losses_of(model, pair, 3, 0)
    assert losses.isfinite().all() and torch.equal(losses, losses_of(model, pair, 3, 0))
    assert not torch.equal(losses, losses_of(model, pair, 4, 0))
    losses.sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.backbone.encoder.parameters())


def config(side: int, max_shift_vox: int) -> TrainConfig:
    objective = ObjectiveConfig(contrastive=ContrastiveConfig(max_shift_vox=max_shift_vox))
    return TrainConfig(engine=EngineConfig(side=side), objective=objective)


def test_windows_that_the_network_cannot_halve_or_that_never_meet_are_refused():
    config(96, 32)
    with pytest.raises(ValueError, match=r"less .*max_shift_vox, must be a multiple of 16"):
        config(96, 20)
    with pytest.raises(ValueError, match="below the windows of 32 voxels"):
        config(96, 64)
    with pytest.raises(ValueError, match="must not be negative"):
        ContrastiveConfig(max_shift_vox=-1)
