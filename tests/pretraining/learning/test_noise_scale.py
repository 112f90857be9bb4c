"""The noise scale is right for gradients whose mean and covariance are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pretraining.learning.noise_scale import GradientNoise, NoiseScale

MEAN = torch.tensor([0.6, -0.4, 0.2, 0.8, -0.2])
STD = torch.tensor([1.0, 0.5, 2.0, 0.1, 0.7])
SIGNAL, NOISE = float(MEAN @ MEAN), float(STD @ STD)


def toy() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, 1)), nn.Parameter(torch.zeros(4))]


def backward(parameters: list[nn.Parameter], scale: float, generator: torch.Generator) -> None:
    """Add the gradient of one label map: that of a linear loss; the last parameter gets none."""
    drawn = MEAN + STD * torch.randn(5, generator=generator)
    loss = (parameters[0] * drawn[:2]).sum() + (parameters[1].flatten() * drawn[2:]).sum()
    (loss * scale).backward()


def estimates(label_maps: int, steps: int, world: int = 1) -> Tensor:
    """Return (steps, 2) estimates; the ranks are computed one after the other."""
    generator = torch.Generator().manual_seed(3)
    ranks = [toy() for _ in range(world)]
    noises = [GradientNoise(parameters, label_maps=label_maps, world=world) for parameters in ranks]
    found = []
    for _ in range(steps):
        for parameters, noise in zip(ranks, noises, strict=True):
            for _ in range(label_maps // world):
                backward(parameters, world / label_maps, generator)
                noise.add_label_map()
        single = torch.stack([noise.take_single_square() for noise in noises]).mean()
        for parts in zip(*ranks, strict=True):  # what average_gradients does
            if parts[0].grad is not None:
                mean = torch.stack([part.grad for part in parts]).mean(dim=0)
                for part in parts:
                    part.grad = mean.clone()
        results = [noise.estimate(single) for noise in noises]
        assert all(result is None if results[0] is None else torch.equal(result, results[0]) for result in results)
        if results[0] is not None:
            found.append(results[0])
        for parameters in ranks:
            for parameter in parameters:
                parameter.grad = None
    return torch.stack(found)


@pytest.mark.parametrize(("label_maps", "world"), [(1, 1), (2, 1), (4, 2)])
def test_estimates_are_unbiased(label_maps, world):
    found = estimates(label_maps, 2500, world)
    error = found.std(dim=0) / len(found) ** 0.5
    # Consecutive steps share a gradient: their estimates are not independent.
    assert ((found.mean(dim=0) - torch.tensor([SIGNAL, NOISE])).abs() < 6 * error).all()
    assert (error < 0.1 * torch.tensor([SIGNAL, NOISE])).all(), "or the line above says nothing"
    assert float(found.mean(dim=0)[1] / found.mean(dim=0)[0]) == pytest.approx(NOISE / SIGNAL, rel=0.25)


def test_averages_are_of_numerator_and_denominator():
    scale = NoiseScale()
    assert scale.update([]) is None
    assert scale.update([torch.tensor([-1.0, 4.0])]) is None, "lost in the noise"
    assert scale.update([torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])]) == pytest.approx(10 / 3, rel=0.02)


def test_old_steps_are_forgotten():
    scale = NoiseScale()
    scale.update([torch.tensor([1.0, 100.0])] * 50)
    for _ in range(100):
        last = scale.update([torch.tensor([1.0, 5.0])] * 20)
    assert last == pytest.approx(5, rel=0.01)


def test_gradients_are_left_alone():
    parameters = toy()
    noise = GradientNoise(parameters, label_maps=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        backward(parameters, 0.5, generator)
        noise.add_label_map()
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    noise.estimate(noise.take_single_square())
    assert before[2] is None and parameters[2].grad is None
    assert all(torch.equal(p.grad, old) for p, old in zip(parameters[:2], before, strict=False))
