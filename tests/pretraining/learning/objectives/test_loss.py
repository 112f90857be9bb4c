"""Test the loss of equation 1: golden values, a plain reference, and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pretraining.learning.objectives.loss import supervised_contrastive_loss


@pytest.mark.parametrize("case", "abc")
def test_loss_and_gradient_equal_the_published_code(golden, case):
    arrays = np.load(golden / "supervised_contrastive.npz")
    features = torch.from_numpy(arrays[f"{case}_features"]).requires_grad_()
    labels, temperature = torch.from_numpy(arrays[f"{case}_labels"]), float(arrays[f"{case}_temperature"])
    loss = supervised_contrastive_loss(features, labels, temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays[f"{case}_loss"]), abs=1e-5)
    np.testing.assert_allclose(features.grad, arrays[f"{case}_grad"], atol=1e-5)


def plain_loss(
    features: torch.Tensor, labels: torch.Tensor, temperature: float, *, balanced: bool = False, rarity: bool = False
) -> float:
    """Compute equation 1 anchor by anchor."""
    z = torch.nn.functional.normalize(features.double().flatten(0, 1), dim=1)
    k = labels.repeat(2).tolist()
    total, weight = 0.0, 0.0
    for i in range(len(z)):
        others = [q for q in range(len(z)) if q != i]
        frequency = {label: sum(k[q] == label for q in others) for label in k}
        denominator = sum(math.exp(z[i] @ z[q] / temperature) / (frequency[k[q]] if balanced else 1) for q in others)
        positives = [p for p in others if k[p] == k[i]]
        loss = -sum(math.log(math.exp(z[i] @ z[p] / temperature) / denominator) for p in positives) / len(positives)
        own = 1 / k.count(k[i]) if rarity else 1
        total, weight = total + own * loss, weight + own
    return total / weight


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("rarity", [False, True])
def test_loss_equals_the_equation(balanced, rarity):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 7, 5, generator=generator)
    labels = torch.tensor([0, 1, 1, 4, 0, 2, 1])
    loss = supervised_contrastive_loss(
        features, labels, temperature=0.2, balanced_denominator=balanced, rarity_weights=rarity
    )
    assert loss.item() == pytest.approx(plain_loss(features, labels, 0.2, balanced=balanced, rarity=rarity), rel=1e-5)


def test_loss_depends_on_neither_order_nor_length_nor_names_of_labels():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 9, 4, generator=generator)
    labels = torch.randint(3, (9,), generator=generator)
    loss = supervised_contrastive_loss(features, labels, temperature=0.33)
    order = torch.randperm(9, generator=generator)
    for changed, names in (
        (features[:, order], labels[order]),
        (features.flip(0), labels),
        (5 * features, labels),
        (features, 7 - labels),
    ):
        torch.testing.assert_close(supervised_contrastive_loss(changed, names, temperature=0.33), loss)


def test_perfect_clusters_reach_the_floor():
    labels = torch.arange(4).repeat_interleave(8)
    features = torch.eye(4)[labels].expand(2, -1, -1)
    cold = supervised_contrastive_loss(features, labels, temperature=0.01)
    # Only the 15 positives are left in the denominator.
    assert cold.item() == pytest.approx(math.log(15), abs=1e-4)
