"""What is learned: one of the paper's objectives, all with one face for one training loop.

An objective holds the ``backbone`` and whatever heads it needs. Called with a sample of one label
map and a generator, it returns the values of its ``terms``; the loss is their sum with its
``weights``. Batch statistics are per label map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from pretraining.backbone.unet import UNetConfig
from pretraining.common.checks import check_choice, check_within
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
    """Which objective, and the settings of each."""

    kind: Kind = "contrastive"
    """``contrastive``: eq. 1. ``label_free``, ``denoising``: App. B.7. ``segmentation``: of kinds
    of shapes, the rival of formula-driven pretraining.
    """
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """Its number of positions is also that of ``label_free``."""
    label_free: LabelFreeConfig = field(default_factory=LabelFreeConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    """Heads of ``contrastive`` and ``label_free``."""
    kinds: int = 8
    """Kinds of organ with a class of their own, for ``segmentation``; there are 8 kinds of
    procedural shapes.
    """

    def __post_init__(self) -> None:
        check_choice(("contrastive", "label_free", "denoising", "segmentation"), kind=self.kind)
        check_within("[1, 250]", kinds=self.kinds)  # classes are 8-bit


def make_objective(config: ObjectiveConfig, backbone: UNetConfig) -> Objective:
    """The module to train."""
    if config.kind == "contrastive":
        return ContrastiveModel(backbone, config.projection, config.contrastive)
    if config.kind == "label_free":
        return LabelFree(backbone, config.projection, config.label_free, config.contrastive.positions)
    if config.kind == "denoising":
        return Denoising(backbone)
    return Segmentation(backbone, config.kinds)


def sample_maker(config: ObjectiveConfig) -> Callable[..., Pair | CleanPair]:
    """What makes the samples that an objective learns from; has the signature of :func:`synthesize_pair`, and can be pickled."""
    if config.kind == "denoising":
        return synthesize_with_clean
    if config.kind == "segmentation":
        return partial(synthesize_classes, kinds=config.kinds)
    return synthesize_pair
