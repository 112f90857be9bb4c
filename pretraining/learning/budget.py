"""The length of a training: a number of steps, or a wall time."""

from __future__ import annotations

import time

from pretraining.common.errors import InputError
from pretraining.learning.checkpoint import Checkpoint
from pretraining.learning.distributed import Ranks, from_first_rank
from pretraining.learning.schedule import OptimizerConfig, rate_at, rate_in_time

MARGIN = 1.25
"""The last validation and checkpoint may take longer than the measured ones, by this factor."""


class StepBudget:
    """A training of a fixed number of steps.

    Args:
        steps: Of the whole training.
        checkpoint: State that the training starts from.
    """

    unit = "step"
    bar_format = None
    needs_measurement = False
    """Whether a validation and a checkpoint are wanted now, in order to measure how long they take.

    """

    def __init__(self, steps: int, checkpoint: Checkpoint) -> None:
        self.total = self._steps = steps
        self._clock = _Clock(checkpoint.seconds)

    @property
    def seconds(self) -> float:
        """Wall time spent training, over all sittings."""
        return self._clock.seconds

    def over(self, step: int) -> bool:
        """Whether the training ends after ``step`` steps."""
        return step >= self._steps

    def progress(self, step: int) -> float:
        """Share of the training that is done after ``step`` steps, in [0, 1]."""
        return step / self._steps

    def rate(self, step: int, config: OptimizerConfig) -> float:
        """Learning rate of ``step`` (from 0)."""
        return rate_at(step, self._steps, config)

    def position(self, step: int) -> int:
        """How much of ``total`` is used up after ``step`` steps."""
        return step

    def measure(self, *, steps: int, steps_s: float, ending_s: float | None) -> None:
        """Ignore measured times: they don't change the number of steps."""

    def __str__(self) -> str:
        return f"{self._steps} steps"


class TimeBudget:
    """A training of a fixed wall time, over all sittings, on any machine.

    The last validation and checkpoint fit into the time, too: what they took before is reserved for
    them. Until that is known, ``needs_measurement`` asks for a validation and a checkpoint right
    after the first step.

    Args:
        minutes: Wall time of the whole training, above 0.
        checkpoint: State that the training starts from; its ``minutes`` and ``reserve_s`` are kept
            up to date.
        ranks: Processes that train together. All follow the clock of the first one.
        steps_in_flight: Steps that may still be under way on the device when the host decides to
            stop.

    Raises:
        InputError: If ``minutes`` is not a number above 0.

    Notes:
        Asking costs a broadcast from host to host where there are several ranks; nothing waits for
        a device.
    """

    unit = "s"
    bar_format = "{percentage:3.0f}%|{bar}| {remaining} left{postfix}"

    def __init__(self, minutes: float, checkpoint: Checkpoint, ranks: Ranks, *, steps_in_flight: int = 1) -> None:
        check_minutes(minutes)
        self.total = 60 * minutes
        self._checkpoint, self._ranks, self._in_flight = checkpoint, ranks, steps_in_flight
        self._clock = _Clock(checkpoint.seconds)
        self._ending_s, self._step_s, self._windows = 0.0, 0.0, 0
        self._progress = 0.0
        checkpoint.minutes = minutes

    @property
    def seconds(self) -> float:
        """Wall time spent training, over all sittings."""
        return self._clock.seconds

    @property
    def needs_measurement(self) -> bool:
        """Whether a validation and a checkpoint are wanted now, in order to measure how long they take."""
        return self._checkpoint.reserve_s is None

    def over(self, step: int) -> bool:
        """Whether the training ends after ``step`` steps; all ranks get the same answer and must ask together."""
        usable = self.total - (self._checkpoint.reserve_s or 0.0)
        progress = self._clock.seconds / usable if usable > 0 else float(step > 0)
        self._progress = min(1.0, from_first_rank(progress, self._ranks))
        return self._progress >= 1

    def progress(self, step: int) -> float:
        """Share of the training that is done, in [0, 1], as of when :meth:`over` was asked last."""
        return self._progress

    def rate(self, step: int, config: OptimizerConfig) -> float:
        """Learning rate of ``step`` (from 0), as of when :meth:`over` was asked last."""
        return rate_in_time(step, self._progress, config)

    def position(self, step: int) -> float:
        """Seconds used up, at most ``total``."""
        return min(self.total, self._clock.seconds)

    def measure(self, *, steps: int, steps_s: float, ending_s: float | None) -> None:
        """Update the reserved time.

        Args:
            steps: Steps since the last call.
            steps_s: Their wall time, seconds.
            ending_s: Wall time of a validation and a checkpoint, seconds; None if there was none.
        """
        self._windows += 1
        if self._windows > 1:  # the first step of a sitting also compiles and starts processes
            self._step_s = steps_s / steps
        if ending_s is not None:
            self._ending_s = MARGIN * ending_s
        if self._ending_s:
            self._checkpoint.reserve_s = self._ending_s + self._in_flight * self._step_s

    def __str__(self) -> str:
        return f"{self.total / 60:g} minutes"


Budget = StepBudget | TimeBudget


def check_minutes(minutes: float) -> None:
    """Raise InputError unless ``minutes`` is a number above 0."""
    if not 0 < minutes < float("inf"):
        raise InputError(f"expected --minutes above 0, got {minutes}")


class _Clock:
    """Wall time since its construction, on top of ``before`` seconds."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
