"""Learning-rate schedule: rates of the network's stages over the iterations (App. B.5)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from pretraining.common.checks import check_choice, check_positive, check_within
from pretraining.common.errors import InputError

Trained = Literal["all", "head_first", "frozen_encoder"]
HEAD = "head"
_OTHER = "network"
"""Stage of all parameters of another network, except its head."""
_ENCODER = ("stem", "encoder", "bottleneck")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Settings of the schedule.

    The defaults are the paper's: all layers from the first iteration, half a cosine down to 0.
    Durations are shares of all iterations, so that a shorter training has the same course.
    """

    trained: Trained = "all"
    """Trained layers: ``all``, ``head_first`` or ``frozen_encoder``.

    ``head_first`` trains only the segmentation head for ``head_share``, then all layers.
    ``frozen_encoder`` keeps the pretrained weights of stem, encoder and bottleneck (their batch
    statistics still follow the scans).
    """
    head_share: float = 0.1
    """Share of the iterations that train only the head with ``head_first``, in (0, 1)."""
    warmup_share: float = 0.0
    """Share of the iterations of linear warm-up, from a stage's first training step, in [0, 1)."""
    layer_decay: float = 1.0
    """Factor between the rates of neighbouring stages, from the head down, in (0, 1]."""
    head_factor: float = 10.0
    """Factor of the head's rate, which alone starts from random weights; 1 in the paper."""

    def __post_init__(self) -> None:
        check_choice(("all", "head_first", "frozen_encoder"), trained=self.trained)
        check_within("(0, 1)", head_share=self.head_share)
        check_within("[0, 1)", warmup_share=self.warmup_share)
        check_within("(0, 1]", layer_decay=self.layer_decay)
        check_positive(head_factor=self.head_factor)

    def is_trained(self, stage: str) -> bool:
        """Return whether ``stage`` is trained at any time."""
        return not (self.trained == "frozen_encoder" and stage.split(".")[0] in _ENCODER)

    def factor(self, stage: str, iteration: int, iterations: int) -> float:
        """Return the learning rate of a trained stage, as a factor of its highest rate.

        Args:
            stage: Name of the stage, see :func:`stage_of`.
            iteration: Optimizer step, counted from 0.
            iterations: Optimizer steps in total.

        Returns:
            Factor in [0, 1]; 0 before the stage's first training step.
        """
        starts_later = self.trained == "head_first" and stage != HEAD
        first = math.ceil(self.head_share * iterations) if starts_later else 0
        if iteration < first:
            return 0.0
        warmup = self.warmup_share * iterations
        return half_cosine(iteration / iterations) * (min(1.0, (iteration - first + 1) / warmup) if warmup else 1.0)


def half_cosine(progress: float) -> float:
    """Return half a cosine: 1 at ``progress`` 0, falling to 0 at 1, and 0 beyond."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def stage_of(parameter: str) -> str:
    """Return the stage that a parameter belongs to.

    Args:
        parameter: Name of a parameter of
            :class:`~nnunet_anatomix.finetuning.network.AnatomixNetwork` or
            :class:`~nnunet_anatomix.finetuning.other_network.OtherNetwork`.

    Returns:
        ``stem``, ``encoder.L``, ``bottleneck``, ``decoder.L`` or ``output`` for parameters of the
        backbone, ``network`` for those of another network, ``head`` for all others.
    """
    # Compiled and distributed networks prefix the names.
    match = re.match(
        r"(?:_orig_mod\.|module\.)*(?:backbone\.((?:encoder|decoder)\.\d+|stem|bottleneck|output)|(network))\.",
        parameter,
    )
    return (match.group(1) or match.group(2)) if match else HEAD


def stage_depths(stages: Iterable[str]) -> dict[str, int]:
    """Return for each stage how many stages separate it from the output, on the longest path.

    Args:
        stages: Names of the stages; repetitions are ignored.
    """

    def order(stage: str) -> tuple[int, int]:
        name, _, level = stage.partition(".")
        rank = (HEAD, _OTHER, "output", "decoder", "bottleneck", "encoder", "stem").index(name)
        return rank, -int(level) if name == "encoder" else int(level or 0)

    return {stage: depth for depth, stage in enumerate(sorted(set(stages), key=order))}


def parameter_groups(network: nn.Module, config: ScheduleConfig, rate: float) -> list[dict[str, Any]]:
    """Return one optimizer group per trained stage, and freeze the other stages.

    Args:
        network: :class:`~nnunet_anatomix.finetuning.network.AnatomixNetwork` or another network,
            bare, compiled or distributed; ``requires_grad`` of its parameters is set in place.
        config: Settings of the schedule.
        rate: Highest learning rate; those of the stages are multiples of it.

    Returns:
        Groups with the keys ``params``, ``lr`` and ``stage``, from the head down.

    Raises:
        InputError: If the encoder of another network is to be frozen.
    """
    members: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        members.setdefault(stage_of(name), []).append(parameter)
    if _OTHER in members and config.trained == "frozen_encoder":
        raise InputError("frozen_encoder needs our backbone, as other networks have no named encoder; use all")
    depth = stage_depths(members)
    groups = []
    # The head is the first group: nnU-Net logs and plots the first group's rate.
    for stage in sorted(members, key=depth.__getitem__):
        parameters, trained = members[stage], config.is_trained(stage)
        for parameter in parameters:
            parameter.requires_grad_(trained)
        if trained:
            factor = config.head_factor if stage == HEAD else config.layer_decay ** depth[stage]
            groups.append({"params": parameters, "lr": rate * factor, "stage": stage})
    return groups


class RatePerIteration:
    """Learning-rate scheduler that updates the rates after every optimizer step.

    nnU-Net steps its scheduler once per epoch, so a training of one epoch would keep its first
    rate. This scheduler counts optimizer steps by hooks. The call at the start of an epoch sets the
    count, so that a resumed training continues at the right rate.

    Args:
        optimizer: Optimizer with groups of :func:`parameter_groups`; the current rate of a group
            is its highest.
        config: Settings of the schedule.
        iterations: Optimizer steps in total.
        iterations_per_epoch: Optimizer steps per epoch of :meth:`step`.
    """

    def __init__(
        self, optimizer: Optimizer, config: ScheduleConfig, iterations: int, iterations_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._config = config
        self._highest_rates = [group["lr"] for group in optimizer.param_groups]
        self._iterations = iterations
        self._iterations_per_epoch = iterations_per_epoch
        optimizer.register_step_pre_hook(self._drop_gradients_at_zero_rate)
        optimizer.register_step_post_hook(self._advance)
        self._set(0)

    def step(self, epoch: int) -> None:
        """Set the rates of the first iteration of ``epoch``, counted from 0."""
        self._set(epoch * self._iterations_per_epoch)

    def _drop_gradients_at_zero_rate(self, *_: Any) -> None:
        """Drop gradients of stages that do not train yet.

        Otherwise Adam would accumulate moments from gradients of an untrained head.
        """
        for group in self._optimizer.param_groups:
            if group["lr"] == 0:
                for parameter in group["params"]:
                    parameter.grad = None

    def _advance(self, *_: Any) -> None:
        self._set(self._iteration + 1)

    def _set(self, iteration: int) -> None:
        self._iteration = iteration
        for group, rate in zip(self._optimizer.param_groups, self._highest_rates, strict=True):
            group["lr"] = rate * self._config.factor(group["stage"], iteration, self._iterations)
