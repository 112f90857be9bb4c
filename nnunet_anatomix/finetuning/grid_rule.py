"""Spacing, patch size and batch size, computed from a dataset's fingerprint.

The rule, in full:

1. The target grid has the median spacing of the training scans. The backbone pools all axes by the
   same factor, so an axis that is more than ``anisotropy`` times as coarse as the finest is
   resampled to the finest.
2. If the median scan then has more than ``scan_voxels`` voxels, all axes are made coarser by one
   factor.
3. If patches are limited to ``max_patch`` voxels a side, all axes are made coarser by one factor
   until a patch covers ``covered_share`` of the median scan along every axis, at most by
   ``max_coarsening``.
4. Axes of at least ``least_side`` voxels share one patch side: the largest multiple of the
   network's side unit that fits the shortest of these axes, at most ``patch_side``. A shorter axis
   gets the smallest multiple that contains it.
5. If training exceeds the memory target, sizes are reduced in this order: the shared side down to
   ``least_side``, then the batch, then the side again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pretraining.common.checks import check_count, check_positive, check_within
from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """Parameters of the rule.

    The defaults reproduce the paper's six datasets (Table 8) within the tolerance that the tests
    state.
    """

    anisotropy: float = 1.5
    """Greatest ratio of an axis' spacing to the finest spacing without resampling."""
    scan_voxels: int = 256**3
    """Maximum size of the resampled median scan, voxels; the paper's largest grid."""
    patch_side: int = 112
    """Maximum shared patch side, voxels; halfway between the paper's 96 and 128."""
    generous_patch_side: int = 128
    """Maximum shared patch side if the memory target exceeds ``memory_gb``; the paper's largest."""
    least_side: int = 80
    """Minimum extent of axes that share a patch side, voxels; the paper's smallest side."""
    covered_share: float = 0.75
    """Share of the median scan that a patch of limited size is to cover along every axis."""
    max_coarsening: float = 2.0
    """Greatest factor by which the grid is made coarser for a patch of limited size."""
    batch_size: int = 4
    """Patches per step."""
    memory_gb: float = 8.0
    """Default memory target, 2^30 bytes; less on a smaller GPU."""

    def __post_init__(self) -> None:
        check_count(
            anisotropy=self.anisotropy,
            scan_voxels=self.scan_voxels,
            batch_size=self.batch_size,
            least_side=self.least_side,
        )
        check_within("(0, 1]", covered_share=self.covered_share)
        check_within("[1, inf)", max_coarsening=self.max_coarsening)
        check_positive(memory_gb=self.memory_gb)
        check_within(f"[{self.least_side}, inf)", patch_side=self.patch_side)
        check_within(f"[{self.patch_side}, inf)", generous_patch_side=self.generous_patch_side)


def target_spacing(
    spacings_mm: Sequence[Sequence[float]],
    shapes: Sequence[Sequence[int]],
    config: GeometryConfig,
    *,
    max_patch: int | None = None,
) -> list[float]:
    """Compute the spacing to resample all scans to (steps 1 to 3 of the rule).

    Args:
        spacings_mm: One triple per training scan, mm, in any one order of axes.
        shapes: Sizes of the scans, voxels, in the same order of axes.
        config: Parameters of the rule.
        max_patch: Maximum side of a patch, voxels. Default: no limit.

    Returns:
        Three spacings, mm.
    """
    spacings, sizes = np.array(spacings_mm, dtype=float), np.array(shapes, dtype=float)
    median = np.median(spacings, axis=0)
    finest = median.min()
    spacing = np.where(median > config.anisotropy * finest, finest, median)
    shape = median_shape(spacings, sizes, spacing.tolist())
    coarsening = max(1.0, float(np.prod(shape)) / config.scan_voxels) ** (1 / 3)
    if max_patch is not None:
        needed = config.covered_share * float(shape.max()) / max_patch / coarsening
        coarsening *= min(max(1.0, needed), config.max_coarsening)
    return (spacing * coarsening).tolist()


def median_shape(spacings_mm: np.ndarray, shapes: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the median size of the scans after resampling to ``spacing_mm``, voxels per axis."""
    return np.median(np.asarray(shapes) * np.asarray(spacings_mm) / np.asarray(spacing_mm), axis=0)


def patch_size(shape: Sequence[float], side: int, config: GeometryConfig, *, multiple: int, min_side: int) -> list[int]:
    """Compute the patch size (step 4 of the rule).

    Args:
        shape: Size of the median scan on the target grid, voxels.
        side: Maximum shared side, voxels.
        config: Parameters of the rule.
        multiple: Side unit of the backbone, voxels: every side is a multiple of it.
        min_side: Smallest side that the backbone accepts, voxels.

    Returns:
        Patch size, voxels; every side is a multiple of ``multiple`` and at least ``min_side``.
    """
    whole = [max(1, round(extent)) for extent in shape]
    shared = min((extent for extent in whole if extent >= config.least_side), default=side)
    longest = max(min_side, min(side, shared) // multiple * multiple)
    return [min(longest, max(min_side, -(-extent // multiple) * multiple)) for extent in whole]


def patch_and_batch(
    shape: Sequence[float],
    config: GeometryConfig,
    *,
    multiple: int,
    min_side: int,
    memory_target_gb: float,
    needed_gb: Callable[[Sequence[int], int], float],
    max_patch: int | None = None,
) -> tuple[list[int], int]:
    """Find the largest patch and batch that fit into memory (steps 4 and 5 of the rule).

    Args:
        shape: Size of the median scan on the target grid, voxels.
        config: Parameters of the rule.
        multiple: Side unit of the backbone, voxels.
        min_side: Smallest side that the backbone accepts, voxels.
        memory_target_gb: Memory limit, 2^30 bytes.
        needed_gb: Function from patch and batch to the memory of training, 2^30 bytes; see
            :func:`nnunet_anatomix.finetuning.memory.training_memory_gb`.
        max_patch: Maximum side of a patch, voxels. Default: no limit.

    Returns:
        Patch size, voxels, and batch size.

    Raises:
        InputError: If the limit is below the smallest side, or if even one patch of that side does
            not fit into memory.
    """
    if max_patch is not None and max_patch < min_side:
        raise InputError(
            f"expected a maximum patch side of at least the network's {min_side} voxels, found {max_patch}"
        )
    for side, batch in _candidates(config, multiple, min_side, generous=memory_target_gb > config.memory_gb):
        patch = patch_size(shape, min(side, max_patch or side), config, multiple=multiple, min_side=min_side)
        needed = needed_gb(patch, batch)
        if needed <= memory_target_gb:
            return patch, batch
    raise InputError(
        f"training needs at least {needed:.1f} GB, for one patch of {patch} voxels; "
        f"the memory target is {memory_target_gb:.1f} GB"
    )


def _candidates(config: GeometryConfig, multiple: int, min_side: int, *, generous: bool) -> Iterator[tuple[int, int]]:
    """Yield pairs of shared side and batch size, in order of preference."""
    most = config.generous_patch_side if generous else config.patch_side
    for batch in sorted({config.batch_size, (config.batch_size + 1) // 2, 1}, reverse=True):
        yield from ((side, batch) for side in range(most, config.least_side - 1, -multiple))
    yield from ((side, 1) for side in range(config.least_side - multiple, min_side - 1, -multiple))
