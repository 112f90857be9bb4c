"""Test local matching: minimal for features that encode the location, else at chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNetConfig
from pretraining.engine.synthesis import EngineConfig, Pair, synthesize_pair
from pretraining.learning.objectives.choice import compute_losses
from pretraining.learning.objectives.contrastive import ContrastiveConfig, ContrastiveModel
from pretraining.learning.objectives.local_matching import (
    LocalMatching,
    LocalMatchingConfig,
    average_cubes,
    candidate_offsets,
)
from pretraining.learning.objectives.moved_views import CommonBox, MovedViews, common_box, move_views
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.objectives.sampling import sample_positions
from pretraining.templates.procedural import procedural_bank

SHAPE = (20, 24, 28)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(seed: int = 0) -> MovedViews:
    """Return views with the same noise."""
    noise = torch.rand(SHAPE, generator=generator(9))
    return move_views(Pair(torch.zeros(SHAPE, dtype=torch.uint8), noise.expand(2, -1, -1, -1)), 6, generator(seed))


def loss(config: LocalMatchingConfig, features: Tensor, moved: MovedViews) -> float:
    return LocalMatching(config)([common_box(moved, 0)], [features], generator(1)).item()


def codes(moved: MovedViews, *, of: str) -> Tensor:
    """Return (2, 16, x, y, z) noise codes: per voxel of the sample, of the window, or none."""
    noise = torch.randn((16, *SHAPE), generator=generator(3))
    if of == "sample":
        views = move_views(
            Pair(moved.labels, torch.stack([noise[0], noise[0]])), 6, generator(0)
        )  # the same draw of windows
        assert views.shift_vox == moved.shift_vox
        return torch.stack(
            [
                move_views(Pair(torch.zeros(SHAPE), channel.expand(2, -1, -1, -1)), 6, generator(0)).views
                for channel in noise
            ],
            dim=1,
        )
    if of == "window":
        return (
            noise[:, : moved.labels.shape[0], : moved.labels.shape[1], : moved.labels.shape[2]]
            .expand(2, -1, -1, -1, -1)
            .clone()
        )
    return torch.zeros(2, 16, *moved.labels.shape)


CONFIG = LocalMatchingConfig(weight=1, anchors=200, shells_vox=(4,), sigma_vox=0.1, inverse_temperature=20)


@pytest.mark.parametrize("far", [True, False])
def test_codes_of_the_anatomy_are_found_and_codes_of_the_window_are_not(far):
    config = LocalMatchingConfig(**{**vars(CONFIG), "far": far})
    moved = windows()
    assert any(moved.shift_vox)
    assert loss(config, codes(moved, of="sample"), moved) < 0.01
    assert loss(config, codes(moved, of="window"), moved) > 10
    # All candidates alike: the logarithm of their number. Some are outside of the view.
    at_chance = loss(config, codes(moved, of="nothing"), moved)
    assert math.log(60) < at_chance < math.log(125 + 26 + far * 200)


def test_far_candidates_forbid_a_code_that_repeats():
    moved = windows()
    period = torch.randn((2, 16, 8, 8, 8), generator=generator(5))[:1].expand(2, -1, -1, -1, -1)
    tiled = period.repeat(1, 1, 4, 4, 4)
    x, y, z = moved.labels.shape
    shift = [step % 8 for step in moved.shift_vox]
    features = torch.stack(
        [
            tiled[0, :, 8 : 8 + x, 8 : 8 + y, 8 : 8 + z],
            tiled[1].roll(shift, (1, 2, 3))[:, 8 : 8 + x, 8 : 8 + y, 8 : 8 + z],
        ]
    )
    near = {**vars(CONFIG), "shells_vox": ()}
    assert loss(LocalMatchingConfig(**{**near, "far": False}), features, moved) < 0.01
    assert loss(LocalMatchingConfig(**near), features, moved) > 0.1


def test_it_is_the_cross_entropy_over_near_candidates_written_out():
    moved = windows()
    features = torch.randn((2, 5, *moved.labels.shape), generator=generator(2))
    config = LocalMatchingConfig(
        weight=1, anchors=40, near_vox=1, shells_vox=(3,), far=False, sigma_vox=0.5, inverse_temperature=2
    )
    term, box = LocalMatching(config), common_box(moved, 0)
    here = box.places(sample_positions(box.labels, 40, balanced_share=0.5, generator=generator(1)))
    there = box.counterparts(here).long()
    standard = []
    for view, at in zip(features, (here, there), strict=True):
        std, mean = torch.std_mean(view[:, at[:, 0], at[:, 1], at[:, 2]], dim=1)
        standard.append((view - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1))
    expected = []
    for anchors, others, a, b in ((here, there, *standard), (there, here, *reversed(standard))):
        for anchor, place in zip(anchors, others, strict=True):
            logits, target = [], []
            for offset in candidate_offsets(1, (3,)):
                candidate = place + offset
                if (candidate >= 0).all() and (candidate < torch.tensor(box.shape)).all():
                    logits.append(-2 * (a[(slice(None), *anchor)] - b[(slice(None), *candidate)]).square().mean())
                    target.append(math.exp(-offset.square().sum() / (2 * 0.5**2)))
            target = torch.tensor(target) / sum(target)
            expected.append(functional.cross_entropy(torch.stack(logits), target))
    assert term([box], [features], generator(1)).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_the_target_lies_at_the_true_place_between_voxels():
    shift = torch.tensor([0.4, -0.3, 0.2])
    coordinates = torch.stack(torch.meshgrid(*[torch.arange(float(side)) for side in SHAPE], indexing="ij"))

    def waves(places: Tensor) -> Tensor:
        return torch.cat([function(places / length) for length in (2.0, 3.0) for function in (torch.sin, torch.cos)])

    # Voxel q of the second view shows what lies at q - shift in the first.
    features = torch.stack([waves(coordinates), waves(coordinates - shift.view(3, 1, 1, 1))])
    config = LocalMatchingConfig(weight=1, anchors=300, shells_vox=(), far=False, sigma_vox=0.5, inverse_temperature=8)

    def loss_for(said: Tensor) -> float:
        box = CommonBox(
            torch.zeros(12, 12, 12, dtype=torch.uint8), (3, 3, 3), SHAPE, np.column_stack([np.eye(3), said])
        )
        return LocalMatching(config)([box], [features], generator(1)).item()

    assert loss_for(shift) < min(loss_for(torch.zeros(3)), loss_for(-shift)) - 0.05


@pytest.mark.parametrize("halvings", [1, 2])
def test_averaged_features_are_matched_on_their_own_grid(halvings):
    side, shift, step = 32, 4, 2**halvings  # whole cubes, so that both views average the same voxels
    noise = torch.randn((16, *(side + shift,) * 3), generator=generator(7))
    features = torch.stack([noise[:, shift:, shift:, shift:], noise[:, :-shift, :-shift, :-shift]])
    matrix = np.column_stack([np.eye(3), (shift,) * 3])
    moved = MovedViews(torch.zeros((side,) * 3, dtype=torch.uint8), features[:, 0], (shift,) * 3, matrix)
    averaged = average_cubes(features, halvings)
    assert torch.allclose(averaged[:, :, 0, 0, 0], features[:, :, :step, :step, :step].mean((2, 3, 4)), atol=1e-6)
    term = LocalMatching(LocalMatchingConfig(**{**vars(CONFIG), "averaged_levels": (halvings,)}))

    def loss_of(pair: Tensor) -> float:
        boxes = [common_box(moved, 0), common_box(moved, halvings)]
        return term(boxes, [features, pair], generator(1)).item()

    assert loss_of(averaged) < 0.01
    assert loss_of(averaged[:1].expand(2, -1, -1, -1, -1)) > 5  # a code of the window


def test_candidates_are_distinct_and_the_true_place_is_one_of_them():
    offsets = candidate_offsets(2, (2, 4, 8))
    assert len(offsets) == len(offsets.unique(dim=0)) == 125 + 26 + 26  # a shell within the near cube adds nothing
    assert (offsets == 0).all(dim=1).sum() == 1


def test_the_term_reaches_the_backbone_and_its_temperature():
    config = ContrastiveConfig(
        max_shift_vox=16, local=LocalMatchingConfig(weight=0.5, anchors=64, levels=(0, 1), averaged_levels=(1, 2))
    )
    model = build(
        lambda: ContrastiveModel(UNetConfig(width=4, poolings=2), ProjectionConfig(width=16), config), generator()
    )
    assert model.terms[-1] == "local matching" and sum(model.weights) == pytest.approx(1.5)
    terms = compute_losses(model, synthesize_pair(procedural_bank(8), EngineConfig(side=48), seed=0, index=0), 3, 0)
    terms[-1].backward()
    assert model.local.log_inverse_temperature.grad.abs().min() > 0 and model.backbone.stem.conv.weight.grad.any()
    assert not any("offsets" in name for name in model.state_dict())  # constants are not saved


def test_settings_that_make_no_sense_are_refused():
    for wrong in (
        {"weight": -1},
        {"anchors": 1},
        {"near_vox": 0},
        {"shells_vox": (0,)},
        {"levels": ()},
        {"levels": (1, 1)},
        {"averaged_levels": (0,)},
        {"averaged_levels": (1, 1)},
        {"sigma_vox": 0},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
            LocalMatchingConfig(**wrong)
    with pytest.raises(ValueError, match=r"local\.levels"):
        ContrastiveModel(
            UNetConfig(poolings=2),
            ProjectionConfig(),
            ContrastiveConfig(local=LocalMatchingConfig(weight=1, levels=(2,))),
        )
