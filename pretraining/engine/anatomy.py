"""Real label maps: all organs of one subject in their true positions, deformed together.

This is the label model ``Brains`` of App. B.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.checks import check_choice, check_count, check_not_negative, check_positive, check_range
from pretraining.common.errors import InputError
from pretraining.common.random import distinct_integers, integer, uniforms, weighted_choice
from pretraining.common.triple import triple
from pretraining.engine.affine import AffineConfig, recentre, sample_affine
from pretraining.engine.execution import compile_loop
from pretraining.engine.fields import SmoothNoise, sample_smooth_noise, smooth_noise
from pretraining.engine.placement import make_placement, paste_templates
from pretraining.engine.resident import load_packed

Shape = tuple[int, int, int]

ORGAN_LIMIT = 250
"""Most organs in one sample, as labels are 8-bit. Of a subject with more organs, each sample shows
a random subset.
"""


@dataclass(frozen=True, kw_only=True)
class AnatomyConfig:
    """Settings of real label maps: the subjects to draw and their deformation."""

    min_organs: int = 4
    """Fewest templates of a subject that may be drawn: single shapes are not an anatomy."""
    sources: tuple[str, ...] = ()
    """Prefixes of the sources whose subjects may be drawn. Default: all sources."""
    draw: Literal["uniform", "balanced"] = "uniform"
    """Distribution of the subjects: uniform, or balanced over regions of the body."""
    scale: tuple[float, float] = (0.8, 1.2)
    """Range of each axis' scale, input voxels per output voxel: above 1 the subject shrinks."""
    max_rotation_deg: float = 15.0
    """Bound of each Euler angle, drawn from U[-max, max], degrees."""
    max_shear: float = 0.012
    """Bound of each of the three upper-triangular shears, drawn from U[-max, max]."""
    warp_scales_vox: tuple[float, ...] = (25.0,)
    """Coarse-grid spacings of the displacement, voxels at any side."""
    max_warp_std_vox: float = 4.0
    """Bound of each scale's std of displacement, drawn from U[0, max], voxels at any side."""

    def __post_init__(self) -> None:
        check_count(min_organs=self.min_organs)
        check_choice(("uniform", "balanced"), draw=self.draw)
        check_range("(0, inf)", scale=self.scale)
        check_not_negative(
            max_rotation_deg=self.max_rotation_deg, max_shear=self.max_shear, max_warp_std_vox=self.max_warp_std_vox
        )
        check_positive(warp_scales_vox=self.warp_scales_vox)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Random parameters of one real label map."""

    shape: Shape
    """Shape of the volume, voxels."""
    organs: tuple[int, ...]
    """Indices into the bank: all templates of one subject, at most ``ORGAN_LIMIT``, in the bank's
    order.
    """
    matrix: np.ndarray
    """(3, 4) map from index in the volume to index in the subject's own volume."""
    warp: SmoothNoise
    """Displacement, voxels."""

    @property
    def label_count(self) -> int:
        """Upper bound of the labels: they are in 0..label_count - 1."""
        return 1 + len(self.organs)


def sample_anatomy(config: AnatomyConfig, shape: Shape, bank: TemplateBank, generator: Generator) -> Anatomy:
    """Draw a subject, its visible part and its deformation.

    Args:
        config: Subjects that may be drawn, and ranges of the deformation.
        shape: (X, Y, Z) of the volume, voxels.
        bank: Templates with their positions in their subjects; one mask is read.
        generator: Sole source of randomness.

    Returns:
        All that :func:`render_anatomy` needs besides the bank.

    Raises:
        InputError: If no subject of the bank may be drawn.

    Notes:
        Along an axis where the box around all organs is shorter than the volume, the box is at a
        random position within the volume. Where it is longer, the volume is centred at a random
        voxel of a random organ. It is then moved towards the box, by at most a quarter of the
        volume, to show as little space outside the box as possible. So parts of the body with many
        organs are shown more often, and no volume is empty.
    """
    subjects = eligible_subjects(bank, config)
    if config.draw == "balanced":
        regions = bank.cached(_group_by_region, config.min_organs, config.sources)
        subjects = regions[weighted_choice([weight for weight, _ in regions], generator)][1]
    organs = subjects[integer(0, len(subjects) - 1, generator)]
    if len(organs) > ORGAN_LIMIT:
        organs = tuple(organs[i] for i in distinct_integers(len(organs), ORGAN_LIMIT, generator))
    low, high = _organ_boxes(bank, organs)
    organ = integer(0, len(organs) - 1, generator)
    focus = low[organ] + _random_set_voxel(bank, organs[organ], generator)
    position = np.array(uniforms(3, 0.0, 1.0, generator))
    half = (np.array(shape) - 1) / 2
    first, last = low.min(0), high.max(0) - 1
    nearest, farthest = np.minimum(first + half, last - half), np.maximum(first + half, last - half)
    near_focus = np.clip(np.clip(focus, nearest, farthest), focus - half / 2, focus + half / 2)
    centre = np.where(last - first > 2 * half, near_focus, nearest + position * (farthest - nearest))
    ranges = AffineConfig(
        scale=config.scale,
        max_rotation_deg=config.max_rotation_deg,
        max_shear=config.max_shear,
        max_translation_vox=0.0,
        reflect=False,
    )
    affine = sample_affine(ranges, generator)
    return Anatomy(
        shape=shape,
        organs=organs,
        matrix=recentre(affine, half, centre),
        warp=sample_smooth_noise(config.warp_scales_vox, 0.0, config.max_warp_std_vox, generator),
    )


def _random_set_voxel(bank: TemplateBank, template: int, generator: Generator) -> np.ndarray:
    """Draw a set voxel of a template, uniformly; return its (3,) index."""
    mask = bank.mask(template).numpy()
    voxels = np.flatnonzero(mask)
    return np.array(np.unravel_index(voxels[integer(0, len(voxels) - 1, generator)], mask.shape))


def eligible_subjects(bank: TemplateBank, config: AnatomyConfig) -> Sequence[tuple[int, ...]]:
    """Return the templates of each subject that may be drawn, at least one subject.

    Args:
        bank: Templates with their subjects.
        config: Conditions on the subjects.

    Raises:
        InputError: If no subject may be drawn.
    """
    # Cached: a bank may have tens of thousands of subjects, too many to search for every sample.
    return bank.cached(_find_eligible, config.min_organs, config.sources)


def _find_eligible(bank: TemplateBank, min_organs: int, sources: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    candidates = {
        name: organs for name, organs in bank.subjects().items() if not sources or name[0].startswith(sources)
    }
    eligible = tuple(organs for organs in candidates.values() if len(organs) >= min_organs)
    if not eligible:
        most = max(map(len, candidates.values()), default=0)
        origin = f" from {', '.join(sources)}" if sources else ""
        raise InputError(
            f"real label maps need a subject with at least {min_organs} organs; of the bank's {len(candidates)} "
            f"subjects{origin} none has more than {most}; build the bank from whole label maps with "
            "`anatomix-pretrain templates`, or change engine.anatomy.min_organs or engine.anatomy.sources"
        )
    return eligible


def _group_by_region(
    bank: TemplateBank, min_organs: int, sources: tuple[str, ...]
) -> tuple[tuple[int, list[tuple[int, ...]]], ...]:
    """Return weight and eligible subjects of each region that has any."""
    region_of = {i: number for number, region in enumerate(bank.regions) for kind in region.kinds for i in kind}
    subjects_of: dict[int, list[tuple[int, ...]]] = {}
    for organs in bank.cached(_find_eligible, min_organs, sources):
        subjects_of.setdefault(region_of[organs[0]], []).append(organs)
    return tuple((bank.regions[number].weight, subjects) for number, subjects in subjects_of.items())


def render_anatomy(params: Anatomy, bank: TemplateBank, device: torch.device | str = "cpu") -> Tensor:
    """Render the label volume.

    Args:
        params: Parameters from :func:`sample_anatomy`.
        bank: Bank with the subject's templates.
        device: Device that computes the volume.

    Returns:
        (X, Y, Z) uint8: 0 is background, and the subject's i-th template, counted from 1, has label
        i. Where templates overlap, the later one counts.

    References:
        Billot et al., SynthSeg, Medical Image Analysis 2023, arXiv:2107.09559.

    Notes:
        Ranges of the deformation are those of SynthSeg's published code, which has voxels of 1 mm.
        Two differences: the displacement is not integrated over time, as it rarely folds at these
        ranges, and flips belong to the online set. There is no foreground mask: it is a part of the
        label ensemble, which this model replaces.
    """
    labels = torch.zeros(params.shape, dtype=torch.uint8, device=device)
    low, high = _organ_boxes(bank, params.organs)
    period = _long_period(params, low.min(0), high.max(0))
    placements = [
        make_placement(params.matrix, crop=bank.shape(i), offset=tuple(offset), period=period, shape=params.shape)
        for i, offset in zip(params.organs, low.tolist(), strict=True)
    ]
    paste_templates(labels, load_packed(bank, params.organs, labels.device), placements)
    return displace(labels, smooth_noise(params.shape, params.warp, channels=3, device=device))


def _organ_boxes(bank: TemplateBank, organs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and the end of each organ's box in the subject's volume, (organs, 3) each.

    The end is the index after the last voxel.
    """
    low = np.array([bank.entry(i).offset for i in organs])
    return low, low + np.array([bank.shape(i) for i in organs])


def _long_period(params: Anatomy, low: np.ndarray, high: np.ndarray) -> Shape:
    """Return a period that spans the visible part and all organs, so that no organ repeats."""
    linear, origin = params.matrix[:, :3], params.matrix[:, 3]
    reach = linear * (np.array(params.shape) - 1)
    first = np.minimum(low, origin + np.minimum(reach, 0).sum(1))
    last = np.maximum(high, origin + np.maximum(reach, 0).sum(1))
    return triple(int(n) for n in np.ceil(last - first) + 2)


def displace(labels: Tensor, displacement_vox: Tensor) -> Tensor:
    """Look up labels at the voxel nearest to each displaced position.

    Args:
        labels: (X, Y, Z) uint8.
        displacement_vox: (3, X, Y, Z) float32, voxels.

    Returns:
        (X, Y, Z) uint8. Outside the volume, the labels of its border are repeated.
    """
    if labels.device.type == "cpu":
        displaced = torch.empty_like(labels)
        _displace_on_host(labels.numpy(), displacement_vox.numpy(), displaced.numpy())
        return displaced
    return _displace_on_device(labels, displacement_vox)


def _displace_on_device(labels: Tensor, displacement_vox: Tensor) -> Tensor:
    def position(axis: int) -> Tensor:
        size = labels.shape[axis]
        index = torch.arange(size, device=labels.device).view([-1 if a == axis else 1 for a in range(3)])
        return (displacement_vox[axis] + index).round_().clamp_(0, size - 1).int()

    flat = position(0)
    for axis in (1, 2):
        flat.mul_(labels.shape[axis]).add_(position(axis))
    return labels.flatten().index_select(0, flat.flatten()).view(labels.shape)


@compile_loop
def _displace_on_host(labels, displacement, displaced):
    nx, ny, nz = labels.shape
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                px = min(max(np.int64(np.rint(displacement[0, x, y, z] + np.float32(x))), 0), nx - 1)
                py = min(max(np.int64(np.rint(displacement[1, x, y, z] + np.float32(y))), 0), ny - 1)
                pz = min(max(np.int64(np.rint(displacement[2, x, y, z] + np.float32(z))), 0), nz - 1)
                displaced[x, y, z] = labels[px, py, pz]
