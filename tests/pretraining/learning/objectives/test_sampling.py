"""Test that positions are distinct, uniform or balanced, and the same in both views."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pretraining.engine.synthesis import EngineConfig, synthesize_pair
from pretraining.learning.objectives.sampling import features_at, flat_index, labels_at_level, sample_positions, unravel
from pretraining.templates.procedural import procedural_bank


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def labels() -> torch.Tensor:
    """Return (16, 8, 12) labels: mostly 0, label 7 in 20 voxels, label 3 in 100."""
    flat = torch.zeros(16 * 8 * 12, dtype=torch.uint8)
    flat[100:120], flat[200:300] = 7, 3
    return flat.view(16, 8, 12)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_coarse_labels_at_the_corner_are_the_published_ones(labels, level):
    expected = functional.interpolate(labels[None, None].float(), scale_factor=0.5**level, mode="nearest")[0, 0]
    assert torch.equal(labels_at_level(labels, level, "corner").float(), expected)


@pytest.mark.parametrize(("level", "gain"), [(2, 0.05), (3, 0.08), (4, 0.05)])
def test_labels_at_the_centre_fill_more_of_their_blocks(level, gain):
    """Compare the share of a block that has its label, over balanced draws on real samples."""
    bank, engine = procedural_bank(40), EngineConfig(side=64)

    def filled(block_label: str) -> float:
        shares = []
        for index in range(6):
            labels = synthesize_pair(bank, engine, seed=0, index=index).labels
            coarse = labels_at_level(labels, level, block_label)
            same = labels == coarse.repeat_interleave(2**level, 0).repeat_interleave(2**level, 1).repeat_interleave(
                2**level, 2
            )
            share = functional.avg_pool3d(same[None, None].float(), 2**level).flatten()
            shares.append(share[sample_positions(coarse, 64, balanced_share=1.0, generator=generator(index))].mean())
        return torch.stack(shares).mean().item()

    assert filled("centre") > filled("corner") + gain


def test_indices_of_voxels_and_flat_ones_are_inverse():
    shape = (4, 5, 7)
    flat = torch.arange(4 * 5 * 7).view(2, -1)
    voxels = unravel(flat, shape)
    assert torch.equal(flat_index(voxels, shape), flat)
    assert torch.equal(voxels.view(-1, 3), torch.stack(torch.unravel_index(flat.flatten(), shape), dim=1))


@pytest.mark.parametrize("balanced_share", [1.0, 0.5, 0.0])
def test_positions_are_distinct_and_depend_on_the_generator_alone(labels, balanced_share):
    before = torch.get_rng_state()
    drawn = sample_positions(labels, 200, balanced_share=balanced_share, generator=generator())
    assert len(drawn.unique()) == 200 and drawn.min() >= 0 and drawn.max() < labels.numel()
    assert torch.equal(drawn, sample_positions(labels, 200, balanced_share=balanced_share, generator=generator()))
    assert not torch.equal(drawn, sample_positions(labels, 200, balanced_share=balanced_share, generator=generator(1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_small_grid_gives_all_its_voxels(labels):
    assert len(sample_positions(labels, 10**6, balanced_share=1.0, generator=generator())) == labels.numel()


def shares(labels: torch.Tensor, *, balanced_share: float) -> dict[int, float]:
    """Return the share of every label among single positions drawn 3,000 times."""
    source = generator()
    drawn = torch.cat(
        [sample_positions(labels, 1, balanced_share=balanced_share, generator=source) for _ in range(3000)]
    )
    values, counts = labels.flatten()[drawn].unique(return_counts=True)
    return dict(zip(values.tolist(), (counts / 3000).tolist(), strict=True))


def test_balanced_positions_take_every_label_equally_often(labels):
    # 3,000 draws: a standard deviation of .009
    assert shares(labels, balanced_share=1.0) == pytest.approx({0: 1 / 3, 3: 1 / 3, 7: 1 / 3}, abs=0.04)


def test_uniform_positions_take_every_voxel_equally_often(labels):
    assert shares(labels, balanced_share=0.0) == pytest.approx({0: 1416 / 1536, 3: 100 / 1536, 7: 20 / 1536}, abs=0.02)


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
def test_features_are_read_at_the_same_voxels_of_both_views(layout):
    """Repeat voxels: their gradients add up and have the layout of the features."""
    features = torch.rand(2, 3, 4, 5, 6, generator=generator()).contiguous(memory_format=layout).requires_grad_()
    places = [(0, 0, 0), (0, 1, 1), (3, 4, 5), (0, 1, 1)]
    read = features_at(features, torch.tensor([0, 7, 119, 7]))
    expected = torch.stack([features[:, :, x, y, z] for x, y, z in places], dim=1)
    assert torch.equal(read, expected)
    weights = torch.rand(read.shape, generator=generator(1))
    found, theirs = (torch.autograd.grad((each * weights).sum(), features)[0] for each in (read, expected))
    torch.testing.assert_close(found, theirs)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
def test_features_are_read_from_a_part_of_a_volume(layout):
    part = torch.rand(2, 3, 6, 7, 8, generator=generator()).contiguous(memory_format=layout)[..., 1:5, 2:, :-2]
    positions = torch.tensor([0, 7, 119])
    assert torch.equal(features_at(part, positions), part.flatten(2).index_select(2, positions).transpose(1, 2))


def test_a_mixture_takes_its_share_of_each_way(labels):
    mixed, uniform = shares(labels, balanced_share=0.4), {0: 1416 / 1536, 3: 100 / 1536, 7: 20 / 1536}
    assert mixed == pytest.approx({label: 0.4 / 3 + 0.6 * share for label, share in uniform.items()}, abs=0.035)
