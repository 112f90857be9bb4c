"""Settings of fine-tuning: a plan's ``anatomix`` block (App. B.5; departures: docs/results.md)."""

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
"""Best of 2e-4, 1e-3 and 3e-3 for 250 iterations, cross-validated on the training cases of
Dataset901 (docs/results.md).
"""


MIN_EPOCHS = 10
"""About the fewest epochs of a training: nnU-Net writes checkpoints only between epochs."""


def default_learning_rate(iterations: int) -> float:
    """Return the learning rate for a number of iterations.

    At the paper's 37,500 iterations or more, it is the paper's. For shorter trainings it grows with
    the square root of the ratio, up to 1e-3 at 1,500 iterations and below.

    Args:
        iterations: Optimizer steps in total.
    """
    return min(HIGHEST_RATE, PAPER_RATE * max(1.0, math.sqrt(PAPER_ITERATIONS / iterations)))


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Settings of the Adam optimizer; the schedule scales its learning rate."""

    learning_rate: float | None = None
    """Highest learning rate. Default: by :func:`default_learning_rate`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the running moments."""
    weight_decay: float = 0.0
    """L2 penalty that Adam adds to the gradient."""

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate)
        check_not_negative(weight_decay=self.weight_decay)
        check_within("[0, 1)", betas=self.betas)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Content of a plan's ``anatomix`` block; a stock plan without the block uses the defaults."""

    weights: str | None = None
    """File or ``hf://owner/repo/file@revision``. Default: the bundled weights.

    ``ANATOMIX_WEIGHTS`` takes precedence.
    """
    sha256: str | None = None
    """Checksum of the tensors in ``weights`` at planning time. Default: not checked."""
    cases: str | None = None
    """Digest of the cases at planning time, which training compares. Default: not checked."""
    unlabelled: str | None = None
    """Folder beside the plan: unlabelled scans to train on too (``nnunet-anatomix enlarge``)."""
    iterations: int = PAPER_ITERATIONS
    """Optimizer steps in total. ``ANATOMIX_ITERATIONS`` takes precedence."""
    iterations_per_epoch: int = 250
    """Most steps between two checkpoints; trainings shorter than ten such epochs have about ten."""
    optimizer: AdamConfig = field(default_factory=AdamConfig)
    """Settings of the optimizer."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Settings of the learning-rate schedule."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Settings of the augmentation."""

    def __post_init__(self) -> None:
        check_count(iterations=self.iterations, iterations_per_epoch=self.iterations_per_epoch)

    def as_in_paper(self) -> Recipe:
        """Return this recipe with the augmentation of Table 9 and one rate for all layers."""
        return dataclasses.replace(
            self,
            schedule=dataclasses.replace(self.schedule, head_factor=1.0),
            augmentation=dataclasses.replace(self.augmentation, policy="table9"),
        )

    @property
    def learning_rate(self) -> float:
        """Highest learning rate; those of the stages are multiples of it."""
        rate = self.optimizer.learning_rate
        return default_learning_rate(self.iterations) if rate is None else rate

    @property
    def epoch_length(self) -> int:
        """Steps of every epoch but the last, which may be shorter."""
        return min(self.iterations_per_epoch, math.ceil(self.iterations / MIN_EPOCHS))

    @property
    def epochs(self) -> int:
        """Number of nnU-Net's epochs; each ends with validation and a checkpoint."""
        return math.ceil(self.iterations / self.epoch_length)

    def iterations_in(self, epoch: int) -> int:
        """Return the steps of ``epoch``, counted from 0; their sum is :attr:`iterations`."""
        return min(self.epoch_length, self.iterations - epoch * self.epoch_length)


def read_recipe(plan: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Recipe:
    """Read the recipe of a plan and apply environment variables.

    Args:
        plan: nnU-Net's plan; its ``anatomix`` block may be missing.
        environment: Environment variables. ``ANATOMIX_ITERATIONS`` replaces ``iterations``, so that
            trainings on stock plans can be shortened too.

    Raises:
        InputError: For an unknown key, a value out of range or iterations that are not a whole
            number.
    """
    recipe = from_dict(Recipe, dict(plan.get(BLOCK, {})))
    iterations = integer_variable("ANATOMIX_ITERATIONS", environment, least=1)
    return recipe if iterations is None else dataclasses.replace(recipe, iterations=iterations)


def integer_variable(name: str, environment: Mapping[str, str], least: int) -> int | None:
    """Read an environment variable as a whole number.

    Args:
        name: Name of the variable.
        environment: Environment variables.
        least: Smallest valid value.

    Returns:
        Value, or None if the variable is unset or empty.

    Raises:
        InputError: If it is not a whole number of at least ``least``.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isdigit() or int(text) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, found {text!r}")
    return int(text)
