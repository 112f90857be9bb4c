"""Test the measures of feature correspondence against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from pretraining.probing.correspondence import nearest_rate, separation, similarity
from tests.oracles.roc_area import mean_roc_area


def seeded(seed: int = 5) -> Generator:
    return torch.Generator().manual_seed(seed)


def regions(count: int, kinds: int) -> tuple[Tensor, Tensor]:
    """Return the region of each voxel, and which pairs share one."""
    region = torch.randint(kinds, (count,), generator=seeded())
    return region, region[:, None] == region


def test_features_that_name_the_region_are_perfect():
    region, same = regions(60, 5)
    cosines = similarity(torch.eye(5)[region], 3 * torch.eye(5)[region] + torch.arange(5.0))
    assert nearest_rate(cosines, same) == 1
    assert separation(cosines, same) == 1
    assert separation(-cosines, same) == 0


def test_features_that_know_nothing_are_at_chance():
    _, same = regions(800, 4)
    first, second = torch.randn(2, 800, 16, generator=seeded())
    cosines = similarity(first, second)
    assert nearest_rate(cosines, same) == pytest.approx(same.float().mean().item(), abs=0.05)
    assert separation(cosines, same) == pytest.approx(0.5, abs=0.01)


def test_constant_features_separate_nothing():
    _, same = regions(40, 3)
    cosines = similarity(torch.ones(40, 4), torch.randn(40, 4, generator=seeded()))
    assert torch.equal(cosines, torch.zeros(40, 40))
    assert separation(cosines, same) == 0.5


@pytest.mark.parametrize("decimals", [1, 7])
def test_separation_is_the_area_under_the_roc_curve(decimals):
    """Round to one decimal, too, so that most values are tied."""
    _, same = regions(700, 30)
    same[3] = True  # nothing lies elsewhere: this voxel does not count
    cosines = (2 * torch.rand(700, 700, generator=seeded()) - 1 + 0.3 * same).clamp(-1, 1).round(decimals=decimals)
    few = slice(0, 20)
    assert separation(cosines[few], same[few]) == pytest.approx(
        mean_roc_area(cosines[few].numpy(), same[few].numpy()), abs=1e-9
    )
    # More rows than are ranked at a time.
    blocks = [separation(cosines[i : i + 1], same[i : i + 1]) for i in range(700) if i != 3]
    assert separation(cosines, same) == pytest.approx(sum(blocks) / len(blocks), abs=1e-9)


def test_only_directions_from_the_mean_matter():
    first, second = torch.randn(2, 50, 6, generator=seeded())
    torch.testing.assert_close(similarity(5 * first + 2, second - torch.arange(6.0)), similarity(first, second))


def test_nearest_looks_from_the_first_image_to_the_second():
    cosines = torch.tensor([[0.9, 0.1], [0.8, 0.7]])
    assert nearest_rate(cosines, torch.eye(2, dtype=torch.bool)) == 0.5
    assert nearest_rate(cosines.T, torch.eye(2, dtype=torch.bool)) == 1


@pytest.mark.parametrize(
    "same", [torch.ones(3, 3, dtype=torch.bool), torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 1]]).bool()]
)
def test_places_that_separate_nothing_are_refused(same):
    with pytest.raises(ValueError, match="elsewhere"):
        separation(torch.rand(3, 3), same)
