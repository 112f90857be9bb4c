"""Which grid to train on, and how much of it at a time: spacing, patch and batch from a dataset's fingerprint.

The rule, in full:

1. The grid takes the median spacing of the training scans. The backbone pools alike along all axes, so an axis that is more than
   ``anisotropy`` times as coarse as the finest is resampled to the finest.
2. If the median scan would then have more than ``scan_voxels``, all axes are made coarser by one factor.
3. Axes of at least ``least_side`` voxels share one patch side: the largest multiple of the network's that fits the shortest of them,
   at most ``patch_side``. A shorter axis gets the smallest multiple that holds it.
4. What does not fit into the memory target is made smaller: the shared side down to ``least_side``, then the batch, then the side again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pretraining.common.checks import check_count, check_positive, check_within
from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """Numbers of the rule; the defaults agree with the paper's six datasets (Table 8) within the tolerance that our tests state."""

    anisotropy: float = 1.5
    """An axis may be this many times as coarse as the finest without being resampled."""
    scan_voxels: int = 256**3
    """The median scan is not resampled to more: the largest grid that the paper trains on."""
    patch_side: int = 112
    """Shared side at most, voxels; halfway between the paper's 96 and 128."""
    generous_patch_side: int = 128
    """The same where more memory is asked for than ``memory_gb``: the paper's largest."""
    least_side: int = 80
    """Of axes that share a side, voxels; the paper's smallest."""
    batch_size: int = 4
    """Patches a step."""
    memory_gb: float = 8.0
    """Memory target where none is asked for and the card has no less, 2^30 bytes."""

    def __post_init__(self) -> None:
        check_count(
            anisotropy=self.anisotropy,
            scan_voxels=self.scan_voxels,
            batch_size=self.batch_size,
            least_side=self.least_side,
        )
        check_positive(memory_gb=self.memory_gb)
        check_within(f"[{self.least_side}, inf)", patch_side=self.patch_side)
        check_within(f"[{self.patch_side}, inf)", generous_patch_side=self.generous_patch_side)


def target_spacing(
    spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], config: GeometryConfig
) -> list[float]:
    """The grid to resample all scans to: steps 1 and 2 of the rule.

    Args:
        spacings_mm: One triple a training scan, in any one order of axes.
        shapes: The scans' voxels, in the same order.
        config: Numbers of the rule.

    Returns:
        Three spacings, mm.
    """
    spacings, sizes = np.array(spacings_mm, dtype=float), np.array(shapes, dtype=float)
    median = np.median(spacings, axis=0)
    finest = median.min()
    spacing = np.where(median > config.anisotropy * finest, finest, median)
    voxels = float(np.prod(median_shape(spacings, sizes, spacing.tolist())))
    return (spacing * max(1.0, voxels / config.scan_voxels) ** (1 / 3)).tolist()


def median_shape(spacings_mm: np.ndarray, shapes: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels of the median scan after resampling to ``spacing_mm``, axis by axis."""
    return np.median(np.asarray(shapes) * np.asarray(spacings_mm) / np.asarray(spacing_mm), axis=0)


def patch_size(shape: Sequence[float], side: int, config: GeometryConfig, *, multiple: int, min_side: int) -> list[int]:
    """Step 3 of the rule.

    Args:
        shape: Voxels of the median scan on the target grid.
        side: Greatest shared side, voxels.
        config: Numbers of the rule.
        multiple, min_side: What the backbone takes, voxels.

    Returns:
        The patch, voxels; every axis a multiple of ``multiple`` and at least ``min_side``.
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
) -> tuple[list[int], int]:
    """Steps 3 and 4 of the rule: the largest patch and batch that fit.

    Args:
        shape, config, multiple, min_side: As for :func:`patch_size`.
        memory_target_gb: Not to be exceeded, 2^30 bytes.
        needed_gb: Memory of training with a patch and a batch, see
            :func:`nnunet_anatomix.finetuning.memory.training_memory_gb`.

    Returns:
        Patch, voxels, and batch.

    Raises:
        InputError: If not even one patch of the smallest side fits.
    """
    for side, batch in _candidates(config, multiple, min_side, generous=memory_target_gb > config.memory_gb):
        patch = patch_size(shape, side, config, multiple=multiple, min_side=min_side)
        needed = needed_gb(patch, batch)
        if needed <= memory_target_gb:
            return patch, batch
    raise InputError(
        f"training needs at least {needed:.1f} GB, for one patch of {patch} voxels; the memory target is {memory_target_gb:.1f} GB"
    )


def _candidates(config: GeometryConfig, multiple: int, min_side: int, *, generous: bool) -> Iterator[tuple[int, int]]:
    """Shared side and batch, in the order in which they are tried."""
    most = config.generous_patch_side if generous else config.patch_side
    for batch in sorted({config.batch_size, (config.batch_size + 1) // 2, 1}, reverse=True):
        yield from ((side, batch) for side in range(most, config.least_side - 1, -multiple))
    yield from ((side, 1) for side in range(config.least_side - multiple, min_side - 1, -multiple))
