"""The weighted loss, compared with nnU-Net's own."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor

from nnunet_anatomix.finetuning.unlabelled.loss import ConfidenceLoss

SHAPE = (2, 1, 6, 5, 4)
IGNORE = 3


def of_labels(ignore: int | None = None) -> DC_and_CE_loss:
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)


def of_regions(has_ignore: bool = False) -> DC_and_BCE_loss:
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": True, "ddp": False}
    return DC_and_BCE_loss({}, dice, use_ignore_label=has_ignore, dice_class=MemoryEfficientSoftDiceLoss)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 3, *SHAPE[2:], generator=torch.Generator().manual_seed(0))


def drawn(high: int, channels: int = 1, seed: int = 1) -> Tensor:
    return torch.randint(0, high, (2, channels, *SHAPE[2:]), generator=torch.Generator().manual_seed(seed))


def with_confidence(labels: Tensor, weights: Tensor) -> Tensor:
    return torch.cat([labels.to(torch.int16), (100 * weights).to(torch.int16)], dim=1)


def test_weights_of_0_and_1_are_nnunets_ignore_label(logits):
    labels, weights = drawn(3), drawn(2, seed=2)
    expected = of_labels(IGNORE)(logits, torch.where(weights == 1, labels, IGNORE))
    torch.testing.assert_close(ConfidenceLoss(of_labels())(logits, with_confidence(labels, weights)), expected)


def test_an_ignore_label_has_no_weight_whatever_the_confidence(logits):
    labels = drawn(4)
    found = ConfidenceLoss(of_labels(IGNORE))(logits, with_confidence(labels, torch.ones_like(labels)))
    torch.testing.assert_close(found, of_labels(IGNORE)(logits, labels))


def test_regions_are_as_nnunets_with_and_without_ignore_label(logits):
    regions, weights = drawn(2, channels=3), drawn(2, seed=2)
    sure = torch.ones_like(weights)
    whole = ConfidenceLoss(of_regions())(logits, with_confidence(regions, sure))
    torch.testing.assert_close(whole, of_regions()(logits, regions))
    ignoring = ConfidenceLoss(of_regions(has_ignore=True))
    marked = torch.cat([regions, 1 - weights], 1)
    expected = of_regions(has_ignore=True)(logits, marked)
    torch.testing.assert_close(ignoring(logits, with_confidence(marked, sure)), expected)
    unmarked = torch.cat([regions, torch.zeros_like(weights)], 1)
    torch.testing.assert_close(ignoring(logits, with_confidence(unmarked, weights)), expected)


@pytest.mark.parametrize(("loss", "high", "channels"), [(of_labels(), 3, 1), (of_regions(), 2, 3)])
def test_without_confidence_it_is_nnunets_own(logits, loss, high, channels):
    labels = drawn(high, channels)
    torch.testing.assert_close(ConfidenceLoss(loss)(logits, labels), loss(logits, labels))


def test_voxels_pull_by_their_confidence(logits):
    labels, weights = drawn(3), torch.ones(SHAPE)
    weights[:, :, 0], weights[:, :, 1] = 0, 0.5
    logits.requires_grad_()
    entropy_alone = of_labels()
    entropy_alone.weight_dice = 0
    ConfidenceLoss(entropy_alone)(logits, with_confidence(labels, weights)).backward()
    pull = logits.grad.abs().sum(1, keepdim=True)
    expected = (logits.softmax(1) - torch.zeros_like(logits).scatter_(1, labels, 1)).abs().sum(1, keepdim=True)
    torch.testing.assert_close(pull / pull[:, :, 2:].sum(), weights * expected / expected[:, :, 2:].sum())
