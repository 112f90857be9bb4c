"""Local matching: features find the same voxel in the other view, among its neighbours and among far places.

The contrastive loss (eq. 1) draws all voxels of an organ together. It does not ask where in the
organ a voxel lies, which is what a registration needs to know. This term asks exactly that, of the
features as they are used: standardized, compared by squared difference. Each channel is
standardized over the anchors of its view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from pretraining.common.checks import check_count, check_not_negative, check_positive, check_within
from pretraining.common.errors import InputError
from pretraining.learning.objectives.moved_views import CommonBox
from pretraining.learning.objectives.sampling import features_at, flat_index, sample_positions

_LEAST_STD = 1e-4
"""Of a channel, so that one that is constant stays 0."""


@dataclass(frozen=True, kw_only=True)
class LocalMatchingConfig:
    """Anchors, candidates and weight of the local matching term."""

    weight: float = 0.0
    """Of the term, the mean of eq. 1's levels having weight 1; 0 leaves it out, as in the paper."""
    anchors: int = 1024
    """Voxels of one view that are sought in the other, drawn half by label and half anywhere."""
    near_vox: int = 2
    """All places up to this distance along each axis are candidates."""
    shells_vox: tuple[int, ...] = (4, 8)
    """Distances along each axis of 26 further candidates each."""
    far: bool = True
    """Whether the places of all other anchors are candidates, so that features do not repeat within
    an organ.
    """
    levels: tuple[int, ...] = (0,)
    """Grids on which voxels are matched: 0 is the output, l the first convolution of decoder level
    l. Distances are in its voxels.
    """
    sigma_vox: float = 0.4
    """Standard deviation of the Gaussian around the true place that is the target."""
    inverse_temperature: float = 5.0
    """Factor of the mean squared difference at the start of a training; it is learned, one for each
    level.
    """

    def __post_init__(self) -> None:
        check_not_negative(weight=self.weight, levels=self.levels)
        check_within("[2, inf)", anchors=self.anchors)
        check_count(near_vox=self.near_vox)
        check_positive(
            shells_vox=self.shells_vox, sigma_vox=self.sigma_vox, inverse_temperature=self.inverse_temperature
        )
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise InputError(f"levels: expected distinct numbers, at least one, found {self.levels}")

    def tap(self, level: int) -> str:
        """The convolution whose output is matched at a level."""
        return f"decoder.{level}.0" if level else "output"


class LocalMatching(nn.Module):
    """Cross-entropy of the true place among candidates, in both directions.

    Args:
        config: Anchors and candidates.
    """

    offsets: Tensor

    def __init__(self, config: LocalMatchingConfig) -> None:
        super().__init__()
        self.config = config
        self._true = len(_cube(config.near_vox)) // 2
        count = len(candidate_offsets(config.near_vox, config.shells_vox))
        self.log_inverse_temperature = nn.Parameter(torch.empty(len(config.levels)))
        self.register_buffer("offsets", torch.empty((count, 3), dtype=torch.int64), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the start of a training, and the constants, which are not part of the state."""
        config = self.config
        with torch.no_grad():
            self.offsets.copy_(candidate_offsets(config.near_vox, config.shells_vox))
            self.log_inverse_temperature.fill_(math.log(config.inverse_temperature))

    def forward(self, boxes: list[CommonBox], features: list[Tensor], generator: Generator) -> Tensor:
        """Mean loss over the levels.

        Args:
            boxes: What both views show, on each of ``config.levels``.
            features: (2, C, X, Y, Z) of both views on each of them.
            generator: Draws the anchors; on the features' device.

        Returns:
            () float32.
        """
        losses = []
        for box, found, log_factor in zip(boxes, features, self.log_inverse_temperature, strict=True):
            losses.append(self._of_level(box, found, log_factor.exp(), generator))
        return torch.stack(losses).mean()

    def _of_level(self, box: CommonBox, features: Tensor, factor: Tensor, generator: Generator) -> Tensor:
        drawn = sample_positions(box.labels, self.config.anchors, balanced_share=0.5, generator=generator)
        first = box.places(drawn)
        exact = box.counterparts(first)
        second = exact.round().long()
        places = torch.stack((first, second))
        # Places agree to half a voxel; the target lies where the true place is.
        fractions = torch.stack((box.origins(second) - first, exact - second))
        around = places[:, :, None] + self.offsets
        # All that is read of the features is read at once: every reading has a gradient of the size
        # of the volume.
        last = around.new_tensor(box.shape) - 1
        inside = ((around >= 0) & (around <= last)).all(dim=-1)
        candidates = features_at(features, flat_index(around.clamp(min=0).minimum(last), box.shape).flatten(1)).float()
        candidates = candidates.unflatten(1, around.shape[1:3])
        anchors = candidates[:, :, self._true]
        std, mean = torch.std_mean(anchors, dim=1, keepdim=True)
        scale = std.clamp_min(_LEAST_STD).reciprocal()
        anchors, candidates = (anchors - mean) * scale, (candidates - mean[:, :, None]) * scale[:, :, None]
        loss = features.new_zeros((), dtype=torch.float32)
        for here, there in ((0, 1), (1, 0)):
            logits = -factor * (anchors[here, :, None] - candidates[there]).square().mean(dim=-1)
            logits = logits.masked_fill(~inside[there], -torch.inf)
            if self.config.far:
                logits = torch.cat([logits, self._far(anchors[here], anchors[there], places[there], factor)], dim=1)
            distances = (self.offsets - fractions[there][:, None]).square().sum(dim=-1)
            target = (
                (-distances / (2 * self.config.sigma_vox**2)).masked_fill(~inside[there], -torch.inf).softmax(dim=1)
            )
            log_probability = logits.log_softmax(dim=1)[:, : len(self.offsets)]
            loss = loss - torch.where(target > 0, target * log_probability, 0).sum(dim=1).mean() / 2
        return loss

    def _far(self, anchors: Tensor, others: Tensor, places: Tensor, factor: Tensor) -> Tensor:
        """(n, n) logits of the places of the other anchors; those among the near candidates already do not count again."""
        # Mean squared difference by the binomial formula: one matrix product in place of (n, n, C)
        # differences.
        squared = (
            anchors.square().mean(-1)[:, None] + others.square().mean(-1) - 2 * anchors @ others.T / anchors.shape[-1]
        )
        near = (places[:, None] - places).abs().amax(dim=-1) <= self.config.near_vox
        return (-factor * squared.clamp_min(0)).masked_fill(near, -torch.inf)


def candidate_offsets(near_vox: int, shells_vox: tuple[int, ...]) -> Tensor:
    """(K, 3) int64: all offsets up to ``near_vox`` along each axis, then 26 directions at the distance of each shell.

    The true place, (0, 0, 0), is one of them. Every offset occurs once.
    """
    near, directions = _cube(near_vox), _cube(1)
    shells = [directions[directions.any(dim=1)] * shell for shell in shells_vox if shell > near_vox]
    return torch.cat([near, *shells])


def _cube(reach: int) -> Tensor:
    """((2 * reach + 1)^3, 3) int64 on the CPU, also where modules are being made without memory."""
    steps = torch.arange(-reach, reach + 1, device="cpu")
    return torch.cartesian_prod(steps, steps, steps)
