"""Local matching: identify a voxel in the other view, among its neighbours and distant voxels.

The contrastive loss (eq. 1) attracts all voxels of an organ to each other. It does not encode the
location within the organ, which registration needs. This term does, for the features as
registration uses them: standardized and compared by squared difference. Each channel is
standardized over the anchors of its view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pretraining.common.checks import check_count, check_not_negative, check_positive, check_within
from pretraining.common.errors import InputError
from pretraining.engine.execution import upload
from pretraining.learning.objectives.moved_views import CommonBox
from pretraining.learning.objectives.sampling import features_at, flat_index, sample_positions

_LEAST_STD = 1e-4
"""Lower bound of a channel's standard deviation, so that a constant channel stays 0."""


@dataclass(frozen=True, kw_only=True)
class LocalMatchingConfig:
    """Settings of the local matching term: anchors, candidates and weight."""

    weight: float = 0.0
    """Weight of the term relative to the mean of eq. 1's levels; 0: none, as in the paper."""
    anchors: int = 1024
    """Number of voxels to match, drawn half by label and half uniformly."""
    near_vox: int = 2
    """Distance along each axis up to which all voxels are candidates."""
    shells_vox: tuple[int, ...] = (4, 8)
    """Distances along each axis of 26 further candidates each."""
    far: bool = True
    """Use of all other anchors as candidates, so that features do not repeat within an organ."""
    levels: tuple[int, ...] = (0,)
    """Levels whose voxels are matched: 0 is the output, l the first convolution of decoder level l.
    Distances are in voxels of the level.
    """
    averaged_levels: tuple[int, ...] = ()
    """Levels at which the output is matched as well, averaged over cubes of 2^level voxels as
    registration averages it.
    """
    sigma_vox: float = 0.4
    """Standard deviation of the Gaussian target around the true location, voxels."""
    inverse_temperature: float = 5.0
    """Initial factor of the mean squared difference; learned, one per level."""

    def __post_init__(self) -> None:
        check_not_negative(weight=self.weight, levels=self.levels)
        check_count(averaged_levels=self.averaged_levels)
        check_within("[2, inf)", anchors=self.anchors)
        check_count(near_vox=self.near_vox)
        check_positive(
            shells_vox=self.shells_vox, sigma_vox=self.sigma_vox, inverse_temperature=self.inverse_temperature
        )
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise InputError(f"levels: expected distinct numbers, at least one, found {self.levels}")
        if len(set(self.averaged_levels)) != len(self.averaged_levels):
            raise InputError(f"averaged_levels: expected distinct numbers, found {self.averaged_levels}")

    def tap(self, level: int) -> str:
        """Return the name of the convolution whose output is matched at a level."""
        return f"decoder.{level}.0" if level else "output"

    @property
    def grids(self) -> tuple[tuple[str, int, int], ...]:
        """Matched grids: convolution, its level, and further halvings by averaging."""
        return (
            *((self.tap(level), level, 0) for level in self.levels),
            *(("output", 0, halvings) for halvings in self.averaged_levels),
        )


class LocalMatching(nn.Module):
    """Cross-entropy of the true location among candidates, in both directions.

    Args:
        config: Settings of anchors and candidates.
    """

    offsets: Tensor

    def __init__(self, config: LocalMatchingConfig) -> None:
        super().__init__()
        self.config = config
        self._true = len(_cube(config.near_vox)) // 2
        count = len(candidate_offsets(config.near_vox, config.shells_vox))
        self.log_inverse_temperature = nn.Parameter(torch.empty(len(config.grids)))
        self.register_buffer("offsets", torch.empty((count, 3), dtype=torch.int64), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the initial parameters, and the constants, which the state dict does not contain."""
        config = self.config
        with torch.no_grad():
            self.offsets.copy_(candidate_offsets(config.near_vox, config.shells_vox))
            self.log_inverse_temperature.fill_(math.log(config.inverse_temperature))

    def forward(self, boxes: list[CommonBox], features: list[Tensor], generator: Generator) -> Tensor:
        """Compute the mean loss over the grids.

        Args:
            boxes: Overlap of both views, for each of ``config.grids``.
            features: (2, C, X, Y, Z) features of both views, for each grid.
            generator: Random generator of the anchors; on the features' device.

        Returns:
            () float32.
        """
        losses = []
        for box, level_features, log_factor in zip(boxes, features, self.log_inverse_temperature, strict=True):
            losses.append(self._level_loss(box, level_features, log_factor.exp(), generator))
        return torch.stack(losses).mean()

    def _level_loss(self, box: CommonBox, features: Tensor, factor: Tensor, generator: Generator) -> Tensor:
        drawn = sample_positions(box.labels, self.config.anchors, balanced_share=0.5, generator=generator)
        first = box.places(drawn)
        exact = box.counterparts(first)
        second = box.nearest(exact)
        places = torch.stack((first, second))
        # Voxels agree to half a voxel; the target is centred at the exact location.
        fractions = torch.stack((box.origins(second) - first, exact - second))
        around = places[:, :, None] + self.offsets
        # Read all features at once: every read has a gradient of the size of the volume.
        last = upload(np.array(box.shape) - 1, around.device)
        inside = ((around >= 0) & (around <= last)).all(dim=-1)
        candidates = features_at(features, flat_index(around.clamp(min=0).minimum(last), box.shape).flatten(1)).float()
        candidates = candidates.unflatten(1, around.shape[1:3])
        anchors = candidates[:, :, self._true]
        std, mean = torch.std_mean(anchors, dim=1, keepdim=True)
        scale = std.clamp_min(_LEAST_STD).reciprocal()
        anchors, candidates = (anchors - mean) * scale, (candidates - mean[:, :, None]) * scale[:, :, None]
        loss = features.new_zeros((), dtype=torch.float32)
        for own, other in ((0, 1), (1, 0)):
            logits = -factor * (anchors[own, :, None] - candidates[other]).square().mean(dim=-1)
            logits = logits.masked_fill(~inside[other], -torch.inf)
            if self.config.far:
                logits = torch.cat(
                    [logits, self._far_logits(anchors[own], anchors[other], places[other], factor)], dim=1
                )
            distances = (self.offsets - fractions[other][:, None]).square().sum(dim=-1)
            target = (
                (-distances / (2 * self.config.sigma_vox**2)).masked_fill(~inside[other], -torch.inf).softmax(dim=1)
            )
            log_probability = logits.log_softmax(dim=1)[:, : len(self.offsets)]
            loss = loss - torch.where(target > 0, target * log_probability, 0).sum(dim=1).mean() / 2
        return loss

    def _far_logits(self, anchors: Tensor, others: Tensor, places: Tensor, factor: Tensor) -> Tensor:
        """Return (n, n) logits of the other anchors; -inf for those among the near candidates."""
        # By the binomial formula: one matrix product instead of (n, n, C) differences.
        squared = (
            anchors.square().mean(-1)[:, None] + others.square().mean(-1) - 2 * anchors @ others.T / anchors.shape[-1]
        )
        near = (places[:, None] - places).abs().amax(dim=-1) <= self.config.near_vox
        return (-factor * squared.clamp_min(0)).masked_fill(near, -torch.inf)


def average_cubes(features: Tensor, halvings: int) -> Tensor:
    """Average (2, C, X, Y, Z) features over cubes of 2^halvings voxels; unchanged for 0."""
    return functional.avg_pool3d(features.float(), 2**halvings) if halvings else features


def candidate_offsets(near_vox: int, shells_vox: tuple[int, ...]) -> Tensor:
    """List the offsets of the candidates from the true location, (0, 0, 0), which is one of them.

    Args:
        near_vox: Distance along each axis up to which all offsets are included, voxels.
        shells_vox: Distances of shells of 26 further offsets each, voxels.

    Returns:
        (K, 3) int64, voxels; every offset occurs once.
    """
    near, directions = _cube(near_vox), _cube(1)
    shells = [directions[directions.any(dim=1)] * shell for shell in shells_vox if shell > near_vox]
    return torch.cat([near, *shells])


def _cube(reach: int) -> Tensor:
    """Return ((2 * reach + 1)^3, 3) int64 offsets, on the CPU even under a meta device."""
    steps = torch.arange(-reach, reach + 1, device="cpu")
    return torch.cartesian_prod(steps, steps, steps)
