"""The paper's training objectives behind one interface.

An objective holds the ``backbone`` and the heads that it needs. Called with a sample of one label
map and a generator, it returns the losses of its ``terms``; the total loss is their sum with its
``weights``. Batch statistics are per label map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pretraining.backbone.unet import UNetConfig
from pretraining.common.checks import check_choice, check_within
from pretraining.common.random import noise_generator, sample_generator
from pretraining.engine.synthesis import Pair, synthesize_pair
from pretraining.engine.targets import CleanPair, synthesize_classes, synthesize_with_clean
from pretraining.learning.objectives.contrastive import ContrastiveConfig, ContrastiveModel
from pretraining.learning.objectives.dense import Denoising, Segmentation
from pretraining.learning.objectives.label_free import LabelFree, LabelFreeConfig
from pretraining.learning.objectives.projection import ProjectionConfig

Objective = ContrastiveModel | LabelFree | Denoising | Segmentation
Kind = Literal["contrastive", "label_free", "denoising", "segmentation"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Choice of the objective, and settings of each."""

    kind: Kind = "contrastive"
    """Objective: contrastive (eq. 1), label_free or denoising (App. B.7), or segmentation of kinds
    of shapes (formula-driven pretraining).
    """
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """Settings of contrastive; its number of positions applies to label_free, too."""
    label_free: LabelFreeConfig = field(default_factory=LabelFreeConfig)
    """Settings of label_free."""
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    """Projection heads of contrastive and label_free."""
    kinds: int = 8
    """Number of organ kinds that are classes of segmentation; procedural shapes have 8."""

    def __post_init__(self) -> None:
        check_choice(("contrastive", "label_free", "denoising", "segmentation"), kind=self.kind)
        check_within("[1, 250]", kinds=self.kinds)  # classes are 8-bit


def make_objective(config: ObjectiveConfig, backbone: UNetConfig) -> Objective:
    """Build the module to train.

    Args:
        config: Choice and settings of the objective.
        backbone: Architecture of the backbone.
    """
    if config.kind == "contrastive":
        return ContrastiveModel(backbone, config.projection, config.contrastive)
    if config.kind == "label_free":
        return LabelFree(backbone, config.projection, config.label_free, config.contrastive.positions)
    if config.kind == "denoising":
        return Denoising(backbone)
    return Segmentation(backbone, config.kinds)


def sample_maker(config: ObjectiveConfig) -> Callable[..., Pair | CleanPair]:
    """Return the function that synthesizes the samples of an objective.

    Args:
        config: Choice of the objective.

    Returns:
        A function with the signature of :func:`synthesize_pair`, which can be pickled.
    """
    if config.kind == "denoising":
        return synthesize_with_clean
    if config.kind == "segmentation":
        return partial(synthesize_classes, kinds=config.kinds)
    return synthesize_pair


def compute_losses(model: Objective, sample: Pair, index: int, seed: int) -> Tensor:
    """Compute the losses of one sample; all random draws follow from its index.

    Args:
        model: Objective.
        sample: Sample of one label map.
        index: Index of the sample.
        seed: Seed of the training.

    Returns:
        (terms,) float32, not yet weighted.
    """
    noise_seed = int(torch.randint(2**62, (), generator=sample_generator(seed, index, "positions")))
    return model(sample, generator=noise_generator(noise_seed, sample.labels.device))


def total_loss(model: Objective, losses: Tensor) -> Tensor:
    """Return the () weighted sum of an objective's (terms,) losses."""
    return sum(weight * loss for weight, loss in zip(model.weights, losses, strict=True))
