"""What is trained when, and how fast: learning rates of the network's stages over the iterations (App. B.5)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from pretraining.common.checks import check_choice, check_within

Trained = Literal["all", "head_first", "frozen_encoder"]
HEAD = "head"
_ENCODER = ("stem", "encoder", "bottleneck")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Rates of the stages; the defaults are the paper's: all layers from the first iteration, a half cosine to 0.

    Shares are of all iterations, so that a shortened training keeps its course.
    """

    trained: Trained = "all"
    """``all`` layers; ``head_first``: the segmentation head alone for ``head_share``, then all;
    ``frozen_encoder``: stem, encoder and bottleneck keep their pretrained weights (their batch
    statistics still follow the scans).
    """
    head_share: float = 0.1
    """Of ``head_first``, in (0, 1)."""
    warmup_share: float = 0.0
    """Over which a stage's rate rises linearly from 0 once it is trained, in [0, 1)."""
    layer_decay: float = 1.0
    """Every stage further from the head learns at this many times the rate of the one before it, in
    (0, 1].
    """

    def __post_init__(self) -> None:
        check_choice(("all", "head_first", "frozen_encoder"), trained=self.trained)
        check_within("(0, 1)", head_share=self.head_share)
        check_within("[0, 1)", warmup_share=self.warmup_share)
        check_within("(0, 1]", layer_decay=self.layer_decay)

    def is_trained(self, stage: str) -> bool:
        """Whether ``stage`` ever learns."""
        return not (self.trained == "frozen_encoder" and stage.split(".")[0] in _ENCODER)

    def factor(self, stage: str, iteration: int, iterations: int) -> float:
        """Rate of a trained ``stage`` at ``iteration`` (from 0) of ``iterations``, in units of its highest; 0 while it waits."""
        waits = self.trained == "head_first" and stage != HEAD
        first = math.ceil(self.head_share * iterations) if waits else 0
        if iteration < first:
            return 0.0
        warmup = self.warmup_share * iterations
        return half_cosine(iteration / iterations) * (min(1.0, (iteration - first + 1) / warmup) if warmup else 1.0)


def half_cosine(progress: float) -> float:
    """1 at ``progress`` 0, 0 at 1, cosine between; 0 beyond."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def stage_of(parameter: str) -> str:
    """The stage that a parameter of :class:`~nnunet_anatomix.finetuning.network.AnatomixNetwork` belongs to, by its name.

    ``stem``, ``encoder.L``, ``bottleneck``, ``decoder.L`` and ``output`` of the backbone; all else
    is the ``head``.
    """
    # Compiled and distributed networks put their own names before.
    found = re.match(
        r"(?:_orig_mod\.|module\.)*backbone\.((?:encoder|decoder)\.\d+|stem|bottleneck|output)\.", parameter
    )
    return found.group(1) if found else HEAD


def depths(stages: Iterable[str]) -> dict[str, int]:
    """How many stages lie between each stage and the segmentation, along the longest way back to the image."""

    def order(stage: str) -> tuple[int, int]:
        name, _, level = stage.partition(".")
        rank = (HEAD, "output", "decoder", "bottleneck", "encoder", "stem").index(name)
        return rank, -int(level) if name == "encoder" else int(level or 0)

    return {stage: depth for depth, stage in enumerate(sorted(set(stages), key=order))}


def parameter_groups(network: nn.Module, config: ScheduleConfig, rate: float) -> list[dict[str, Any]]:
    """One group of the optimizer a stage, with its name; what is never trained asks for no gradient and is left out.

    Args:
        network: An :class:`~nnunet_anatomix.finetuning.network.AnatomixNetwork`, bare, compiled or
            distributed.
        rate: Of the head.
    """
    members: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        members.setdefault(stage_of(name), []).append(parameter)
    depth = depths(members)
    groups = []
    # The head goes first: nnU-Net logs and plots the first group's rate.
    for stage in sorted(members, key=depth.__getitem__):
        parameters, trained = members[stage], config.is_trained(stage)
        for parameter in parameters:
            parameter.requires_grad_(trained)
        if trained:
            groups.append({"params": parameters, "lr": rate * config.layer_decay ** depth[stage], "stage": stage})
    return groups


class RatePerIteration:
    """Sets the rates of the optimizer's groups after every step, by itself.

    nnU-Net steps its scheduler once an epoch; a run shortened to one epoch would then never leave
    its first rate. This one counts optimizer steps between nnU-Net's calls, and an epoch's call
    restores the count, so that a continued run joins the curve in whatever phase it was.

    Args:
        optimizer: With groups of :func:`parameter_groups`; a group's present rate is its highest.
        config: The schedule.
        iterations: Optimizer steps in all.
        iterations_per_epoch: Steps that an epoch stands for in :meth:`step`.
    """

    def __init__(
        self, optimizer: Optimizer, config: ScheduleConfig, iterations: int, iterations_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._config = config
        self._highest_rates = [group["lr"] for group in optimizer.param_groups]
        self._iterations = iterations
        self._iterations_per_epoch = iterations_per_epoch
        optimizer.register_step_pre_hook(self._spare_waiting_stages)
        optimizer.register_step_post_hook(self._advance)
        self._set(0)

    def step(self, epoch: int) -> None:
        """Set the rates of the first iteration of ``epoch``, counted from 0."""
        self._set(epoch * self._iterations_per_epoch)

    def _spare_waiting_stages(self, *_: Any) -> None:
        """A stage whose turn has not come must not gather Adam's moments from a head that knows nothing yet."""
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
