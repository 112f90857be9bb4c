"""How a network is fine-tuned: the ``anatomix`` block of a plan, with the paper's values as defaults (App. B.5)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_anatomix.finetuning.augmentation.config import AugmentationConfig
from nnunet_anatomix.finetuning.schedule import ScheduleConfig
from pretraining.common.checks import check_count, check_not_negative, check_positive, check_within
from pretraining.common.config import from_dict
from pretraining.common.errors import InputError

BLOCK = "anatomix"


PAPER_RATE, PAPER_ITERATIONS = 2e-4, 37_500
HIGHEST_RATE = 1e-3
"""The best of 2e-4, 1e-3 and 3e-3 for 250 iterations, cross-validated on the training cases of
Dataset901 (docs/results.md).
"""


def rate_for(iterations: int) -> float:
    """Learning rate for a training of so many iterations: the paper's for the paper's, more for shorter ones.

    It grows with the root of the shortening, until 1e-3 below 1,500 iterations; longer trainings
    keep the paper's.
    """
    return min(HIGHEST_RATE, PAPER_RATE * max(1.0, math.sqrt(PAPER_ITERATIONS / iterations)))


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam; its rate follows the schedule."""

    learning_rate: float | None = None
    """Of the head, before the schedule; None is :func:`rate_for` the iterations."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running moments."""
    weight_decay: float = 0.0
    """L2 penalty, as Adam adds it to the gradient."""

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate)
        check_not_negative(weight_decay=self.weight_decay)
        check_within("[0, 1)", betas=self.betas)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The ``anatomix`` block of a plan; a stock plan without it gets the defaults."""

    weights: str | None = None
    """File or ``hf://owner/repo/file@revision``; None is the bundled default. ``ANATOMIX_WEIGHTS``
    goes first.
    """
    sha256: str | None = None
    """Checksum of ``weights``' tensors when the plan was made; None is not checked."""
    iterations: int = PAPER_ITERATIONS
    """Optimizer steps in all. ``ANATOMIX_ITERATIONS`` goes first."""
    iterations_per_epoch: int = 250
    """Steps between two checkpoints; the last epoch takes what remains."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        check_count(iterations=self.iterations, iterations_per_epoch=self.iterations_per_epoch)

    @property
    def learning_rate(self) -> float:
        """Highest rate of the head."""
        given = self.optimizer.learning_rate
        return rate_for(self.iterations) if given is None else given

    @property
    def epochs(self) -> int:
        """nnU-Net's epochs: checkpoints and validation come between them."""
        return -(-self.iterations // self.iterations_per_epoch)

    def iterations_in(self, epoch: int) -> int:
        """Steps of ``epoch``, counted from 0; together exactly :attr:`iterations`."""
        return min(self.iterations_per_epoch, self.iterations - epoch * self.iterations_per_epoch)


def recipe_of(plan: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Recipe:
    """The recipe that ``plan`` names, as changed by the environment.

    Args:
        plan: nnU-Net's plan; its ``anatomix`` block may be missing.
        environment: ``ANATOMIX_ITERATIONS`` replaces ``iterations``, so that plans of stock nnU-Net
            can be shortened too.

    Raises:
        InputError: For an unknown key, a value out of range or no whole number of iterations.
    """
    recipe = from_dict(Recipe, dict(plan.get(BLOCK, {})))
    iterations = whole_number("ANATOMIX_ITERATIONS", environment, least=1)
    return recipe if iterations is None else dataclasses.replace(recipe, iterations=iterations)


def whole_number(name: str, environment: Mapping[str, str], least: int) -> int | None:
    """The environment variable ``name`` as a whole number of at least ``least``; None if unset or empty."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isdigit() or int(text) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, found {text!r}")
    return int(text)
