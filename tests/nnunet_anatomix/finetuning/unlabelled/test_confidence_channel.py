"""Confidence of labels follows the image through augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.augmentation.affine import AffineWarp
from nnunet_anatomix.finetuning.unlabelled.confidence_channel import WithConfidence

SIDE = 24


def patch(confidence: int) -> dict[str, torch.Tensor]:
    """Return a patch with a label in its middle, around which the confidence is ``confidence``."""
    labels = torch.zeros(1, SIDE, SIDE, SIDE, dtype=torch.int16)
    labels[:, 8:16, 6:14, 8:16] = 1
    certain = torch.full_like(labels, 100)
    certain[:, 4:20, 2:18, 4:20] = confidence
    return {"image": labels.float(), "segmentation": torch.cat([labels, certain])}


def affine(size: int = 16) -> BasicTransform:
    return AffineWarp((size,) * 3, (1.0, 1.0, 1.0), 45, (0.8, 1.2), 0.1, 0.2)


def nnunets(regions: list | None = None, in_plane: bool = False) -> BasicTransform:
    return nnUNetTrainer.get_training_transforms(
        (16, 16, 16), (-0.5, 0.5), None, (0, 1), in_plane, foreground_labels=[1], regions=regions
    )


@pytest.mark.parametrize("transform", [ComposeTransforms([]), affine(), nnunets(), nnunets(in_plane=True)])
def test_certain_labels_stay_certain_even_beyond_the_scan(transform):
    certain = patch(100)
    certain["segmentation"][:, :, :3] = -1  # as the loader pads beyond the scan
    found = WithConfidence(transform)(**certain)["segmentation"]
    assert found.dtype == torch.int16 and (found[1] == 100).all()


@pytest.mark.parametrize("transform", [affine(), nnunets()])
def test_doubt_moves_with_the_image(transform):
    rng = np.random.RandomState(0)
    for _ in range(5):
        np.random.seed(rng.randint(2**31))  # noqa: NPY002
        found = WithConfidence(transform)(**patch(30))["segmentation"]
        assert (found[1][found[0] == 1] <= 35).all() and found[1].min() >= 29


def test_labels_are_those_without_confidence():
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    alone = nnunets()(image=patch(30)["image"], segmentation=patch(30)["segmentation"][:1])
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    joint = WithConfidence(nnunets())(**patch(30))
    torch.testing.assert_close(joint["image"], alone["image"])
    assert torch.equal(joint["segmentation"][:1], alone["segmentation"].to(torch.int16))


def test_regions_come_before_the_confidence():
    found = WithConfidence(nnunets(regions=[(1, 2), (2,)]))(**patch(30))["segmentation"]
    assert found.shape == (3, 16, 16, 16) and set(found[:2].unique().tolist()) <= {0, 1} and found[2].max() == 100
