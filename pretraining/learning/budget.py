"""The length of a training: a number of steps, or a wall time."""

from __future__ import annotations

import logging
import time

import torch

from pretraining.common.errors import InputError
from pretraining.learning.checkpoint import Checkpoint
from pretraining.learning.distributed import Ranks, from_first_rank
from pretraining.learning.schedule import OptimizerConfig, rate_at, rate_in_time
from pretraining.learning.train_config import TrainConfig

log = logging.getLogger(__name__)

MARGIN = 1.25
"""Factor by which the last validation and checkpoint may take longer than the measured ones."""


class StepBudget:
    """Length of a training of a fixed number of steps.

    Args:
        steps: Number of steps of the whole training.
        checkpoint: State that the training starts from.
    """

    unit = "step"
    bar_format = None
    needs_measurement = False
    """Whether the duration of a validation and a checkpoint must be measured now."""

    def __init__(self, steps: int, checkpoint: Checkpoint) -> None:
        self.total = self._steps = steps
        self._clock = _Clock(checkpoint.seconds)

    @property
    def seconds(self) -> float:
        """Wall time spent training, over all sessions, seconds."""
        return self._clock.seconds

    def over(self, step: int) -> bool:
        """Tell whether the training ends after ``step`` steps."""
        return step >= self._steps

    def progress(self, step: int) -> float:
        """Return the share of the training that is done after ``step`` steps, in [0, 1]."""
        return step / self._steps

    def rate(self, step: int, config: OptimizerConfig) -> float:
        """Return the learning rate of ``step`` (from 0)."""
        return rate_at(step, self._steps, config)

    def position(self, step: int) -> int:
        """Return how much of ``total`` is used up after ``step`` steps."""
        return step

    def measure(self, *, steps: int, steps_s: float, ending_s: float | None) -> None:
        """Ignore measured times: they do not change the number of steps."""

    def __str__(self) -> str:
        return f"{self._steps} steps"


class TimeBudget:
    """Length of a training of a fixed wall time, over all sessions, on any machine.

    The time includes the last validation and checkpoint: their measured duration is reserved. Until
    it is known, ``needs_measurement`` requests a validation and a checkpoint right after the first
    step.

    Args:
        minutes: Wall time of the whole training, above 0.
        checkpoint: State that the training starts from; its ``minutes`` and ``reserve_s`` are kept
            up to date.
        ranks: Processes that train together. All follow the clock of the first one.
        steps_in_flight: Steps that may still run on the device when the host decides to stop.

    Raises:
        InputError: If ``minutes`` is not a number above 0.

    Notes:
        With several ranks, :meth:`over` costs a broadcast from host to host; nothing waits for a
        device.
    """

    unit = "s"
    bar_format = "{percentage:3.0f}%|{bar}| {remaining} left{postfix}"

    def __init__(self, minutes: float, checkpoint: Checkpoint, ranks: Ranks, *, steps_in_flight: int = 1) -> None:
        check_minutes(minutes)
        self.total = 60 * minutes
        self._checkpoint, self._ranks, self._in_flight = checkpoint, ranks, steps_in_flight
        self._clock = _Clock(checkpoint.seconds)
        self._ending_s, self._step_s, self._measurements = 0.0, 0.0, 0
        self._progress = 0.0
        checkpoint.minutes = minutes

    @property
    def seconds(self) -> float:
        """Wall time spent training, over all sessions, seconds."""
        return self._clock.seconds

    @property
    def needs_measurement(self) -> bool:
        """Whether the duration of a validation and a checkpoint must be measured now."""
        return self._checkpoint.reserve_s is None

    def over(self, step: int) -> bool:
        """Tell whether the training ends after ``step`` steps; all ranks must call it together."""
        usable = self.total - (self._checkpoint.reserve_s or 0.0)
        progress = self._clock.seconds / usable if usable > 0 else float(step > 0)
        self._progress = min(1.0, from_first_rank(progress, self._ranks))
        return self._progress >= 1

    def progress(self, step: int) -> float:
        """Return the share of the training done at the last call of :meth:`over`, in [0, 1]."""
        return self._progress

    def rate(self, step: int, config: OptimizerConfig) -> float:
        """Return the learning rate of ``step`` (from 0) at the last call of :meth:`over`."""
        return rate_in_time(step, self._progress, config)

    def position(self, step: int) -> float:
        """Return the seconds used up, at most ``total``."""
        return min(self.total, self._clock.seconds)

    def measure(self, *, steps: int, steps_s: float, ending_s: float | None) -> None:
        """Update the reserved time.

        Args:
            steps: Number of steps since the last call.
            steps_s: Wall time of these steps, seconds.
            ending_s: Wall time of a validation and a checkpoint, seconds; None if there was none.
        """
        self._measurements += 1
        if self._measurements > 1:  # the first step of a session also compiles and starts processes
            self._step_s = steps_s / steps
        if ending_s is not None:
            self._ending_s = MARGIN * ending_s
        if self._ending_s:
            self._checkpoint.reserve_s = self._ending_s + self._in_flight * self._step_s

    def __str__(self) -> str:
        return f"{self.total / 60:g} minutes"


Budget = StepBudget | TimeBudget


def make_budget(
    checkpoint: Checkpoint, config: TrainConfig, minutes: float | None, ranks: Ranks, device: torch.device
) -> Budget:
    """Choose the length of a training: a wall time if one is set, else the configured steps.

    Args:
        checkpoint: State that the training starts from, with the wall time of a resumed run.
        config: Configuration with the number of steps.
        minutes: Wall time of the whole training. Default: that of the resumed run, if any.
        ranks: Processes that train together.
        device: Device of the training.
    """
    before = checkpoint.minutes
    total = before if minutes is None else minutes
    if total is None:
        return StepBudget(config.steps, checkpoint)
    if checkpoint.step and total != before:
        was = f"{config.steps} steps" if before is None else f"{before:g} minutes"
        log.warning(
            "%g minutes in place of %s, %.1f of them used: the rest of the learning rate schedule changes",
            *(total, was, checkpoint.seconds / 60),
        )
    # On a GPU the host runs ahead of the device until the next log step.
    return TimeBudget(total, checkpoint, ranks, steps_in_flight=config.log_every if device.type == "cuda" else 1)


def check_minutes(minutes: float) -> None:
    """Raise InputError unless ``minutes`` is a number above 0."""
    if not 0 < minutes < float("inf"):
        raise InputError(f"expected --minutes above 0, got {minutes}")


class _Clock:
    """Wall time since construction plus ``before``, seconds."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
