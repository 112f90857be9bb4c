"""Real label maps: all organs of one subject where they really lie, deformed together (App. B.6, ``Brains``)."""

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
from pretraining.engine.affine import AffineConfig, about, sample_affine
from pretraining.engine.execution import compile_loop
from pretraining.engine.fields import SmoothNoise, sample_smooth_noise, smooth_noise
from pretraining.engine.placement import paste_templates, place
from pretraining.engine.resident import load_packed

Shape = tuple[int, int, int]

ORGAN_LIMIT = 250
"""Labels are 8-bit: of a subject with more organs, this many are drawn for each sample, and the
others are left out.
"""


@dataclass(frozen=True, kw_only=True)
class AnatomyConfig:
    """Which subjects of a template bank are drawn, and how they are deformed."""

    min_organs: int = 4
    """Subjects with fewer templates are never drawn: single shapes are no anatomy."""
    sources: tuple[str, ...] = ()
    """Only subjects whose source begins with one of these are drawn; none: of all sources."""
    draw: Literal["uniform", "balanced"] = "uniform"
    """``uniform``: each subject is equally likely. ``balanced``: a region of the body is drawn
    first, then a subject of it.
    """
    scale: tuple[float, float] = (0.8, 1.2)
    """Range of each axis' scale, input voxels per output voxel: above 1 the subject shrinks."""
    max_rotation_deg: float = 15.0
    """Each Euler angle is drawn from U[-max, max], degrees."""
    max_shear: float = 0.012
    """Each of the three upper-triangular shears is drawn from U[-max, max]."""
    warp_scales_vox: tuple[float, ...] = (25.0,)
    """Coarse-grid spacings of the displacement, voxels at any side."""
    max_warp_std_vox: float = 4.0
    """Each scale's std of displacement is drawn from U[0, max], voxels at any side."""

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
    """One draw."""

    shape: Shape
    """Of the volume, voxels."""
    organs: tuple[int, ...]
    """Indices into the bank: all templates of one subject, at most ``ORGAN_LIMIT``, in the bank's
    order.
    """
    matrix: np.ndarray
    """(3, 4), from index in the volume to index in the subject's own volume."""
    warp: SmoothNoise
    """Displacement, voxels."""

    @property
    def label_count(self) -> int:
        """Labels lie in 0..label_count - 1; known without looking at a voxel."""
        return 1 + len(self.organs)


def sample_anatomy(config: AnatomyConfig, shape: Shape, bank: TemplateBank, generator: Generator) -> Anatomy:
    """Draw a subject, what part of it is seen, and its deformation.

    Args:
        config: Ranges, and which subjects may be drawn.
        shape: (X, Y, Z) of the volume, voxels.
        bank: Templates with their places in their subjects; one mask is read.
        generator: Sole source of randomness.

    Raises:
        InputError: If the bank has no such subject.

    Notes:
        Along an axis where the box around all organs is shorter than the volume, the box lies
        anywhere within it. Where it is longer, the middle of the volume is a random voxel of a
        random organ, moved so that no more than the box is seen, but by at most a quarter of the
        volume. So parts of the body with many organs are seen more often, and empty space alone is
        never seen.
    """
    subjects = eligible_subjects(bank, config)
    if config.draw == "balanced":
        regions = bank.cached(_by_region, config.min_organs, config.sources)
        subjects = regions[weighted_choice([weight for weight, _ in regions], generator)][1]
    organs = subjects[integer(0, len(subjects) - 1, generator)]
    if len(organs) > ORGAN_LIMIT:
        organs = tuple(organs[i] for i in distinct_integers(len(organs), ORGAN_LIMIT, generator))
    low, high = _boxes(bank, organs)
    organ = integer(0, len(organs) - 1, generator)
    focus = low[organ] + _any_voxel(bank, organs[organ], generator)
    slides = np.array(uniforms(3, 0.0, 1.0, generator))
    half = (np.array(shape) - 1) / 2
    first, last = low.min(0), high.max(0) - 1
    nearest, farthest = np.minimum(first + half, last - half), np.maximum(first + half, last - half)
    seen = np.clip(np.clip(focus, nearest, farthest), focus - half / 2, focus + half / 2)
    centre = np.where(last - first > 2 * half, seen, nearest + slides * (farthest - nearest))
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
        matrix=about(affine, half, centre),
        warp=sample_smooth_noise(config.warp_scales_vox, 0.0, config.max_warp_std_vox, generator),
    )


def _any_voxel(bank: TemplateBank, template: int, generator: Generator) -> np.ndarray:
    """Index of a random voxel that is set, (3,)."""
    mask = bank.mask(template).numpy()
    voxels = np.flatnonzero(mask)
    return np.array(np.unravel_index(voxels[integer(0, len(voxels) - 1, generator)], mask.shape))


def eligible_subjects(bank: TemplateBank, config: AnatomyConfig) -> Sequence[tuple[int, ...]]:
    """Templates of each subject that may be drawn, at least one subject.

    Raises:
        InputError: If there is none.
    """
    # Banks have tens of thousands of subjects: they are gone through once, not for every sample.
    return bank.cached(_eligible, config.min_organs, config.sources)


def _eligible(bank: TemplateBank, min_organs: int, sources: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    candidates = {
        name: organs for name, organs in bank.subjects().items() if not sources or name[0].startswith(sources)
    }
    found = tuple(organs for organs in candidates.values() if len(organs) >= min_organs)
    if not found:
        most = max(map(len, candidates.values()), default=0)
        where = f" from {', '.join(sources)}" if sources else ""
        raise InputError(
            f"real label maps need a subject with at least {min_organs} organs; of the bank's {len(candidates)} subjects{where} "
            f"none has more than {most}; build the bank from whole label maps with `anatomix-pretrain templates`, or change "
            "engine.anatomy.min_organs or engine.anatomy.sources"
        )
    return found


def _by_region(
    bank: TemplateBank, min_organs: int, sources: tuple[str, ...]
) -> tuple[tuple[int, list[tuple[int, ...]]], ...]:
    """For each region that has eligible subjects, its weight and those subjects."""
    place = {i: number for number, region in enumerate(bank.regions) for kind in region.kinds for i in kind}
    found: dict[int, list[tuple[int, ...]]] = {}
    for organs in bank.cached(_eligible, min_organs, sources):
        found.setdefault(place[organs[0]], []).append(organs)
    return tuple((bank.regions[number].weight, subjects) for number, subjects in found.items())


def render_anatomy(params: Anatomy, bank: TemplateBank, device: torch.device | str = "cpu") -> Tensor:
    """Make the label volume.

    Args:
        params: From :func:`sample_anatomy`.
        bank: Where the subject's templates are.

    Returns:
        (X, Y, Z) uint8: 0 is background, and the subject's i-th template, counted from 1, has label
        i; where templates overlap the later one counts.

    References:
        Billot et al., SynthSeg, Medical Image Analysis 2023, arXiv:2107.09559.

    Notes:
        Ranges of the deformation are those of SynthSeg's published code, given there for voxels of
        1 mm. Ours: the displacement is used as it is and not integrated over time, as at these
        ranges it hardly ever folds; flips are left to the online set. A foreground mask belongs to
        the label ensemble that this model takes the place of, so there is none.
    """
    labels = torch.zeros(params.shape, dtype=torch.uint8, device=device)
    low, high = _boxes(bank, params.organs)
    period = _beyond_sight(params, low.min(0), high.max(0))
    placements = [
        place(params.matrix, crop=bank.shape(i), offset=tuple(offset), period=period, shape=params.shape)
        for i, offset in zip(params.organs, low.tolist(), strict=True)
    ]
    paste_templates(labels, load_packed(bank, params.organs, labels.device), placements)
    return displace(labels, smooth_noise(params.shape, params.warp, channels=3, device=device))


def _boxes(bank: TemplateBank, organs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(organs, 3) first index of each organ's box in the subject's volume, and the index after its last."""
    low = np.array([bank.entry(i).offset for i in organs])
    return low, low + np.array([bank.shape(i) for i in organs])


def _beyond_sight(params: Anatomy, low: np.ndarray, high: np.ndarray) -> Shape:
    """A period so long that no organ is seen twice: all that is looked at and all organs are within one."""
    linear, origin = params.matrix[:, :3], params.matrix[:, 3]
    reach = linear * (np.array(params.shape) - 1)
    first = np.minimum(low, origin + np.minimum(reach, 0).sum(1))
    last = np.maximum(high, origin + np.maximum(reach, 0).sum(1))
    return triple(int(n) for n in np.ceil(last - first) + 2)


def displace(labels: Tensor, displacement_vox: Tensor) -> Tensor:
    """Look up labels (X, Y, Z) at the voxel nearest to each displaced position; beyond the border the border's labels go on."""
    if labels.device.type == "cpu":
        found = torch.empty_like(labels)
        _displaced_on_host(labels.numpy(), displacement_vox.numpy(), found.numpy())
        return found
    return _displaced_on_device(labels, displacement_vox)


def _displaced_on_device(labels: Tensor, displacement_vox: Tensor) -> Tensor:
    def position(axis: int) -> Tensor:
        size = labels.shape[axis]
        index = torch.arange(size, device=labels.device).view([-1 if a == axis else 1 for a in range(3)])
        return (displacement_vox[axis] + index).round_().clamp_(0, size - 1).int()

    flat = position(0)
    for axis in (1, 2):
        flat.mul_(labels.shape[axis]).add_(position(axis))
    return labels.flatten().index_select(0, flat.flatten()).view(labels.shape)


@compile_loop
def _displaced_on_host(labels, displacement, found):
    nx, ny, nz = labels.shape
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                px = min(max(np.int64(np.rint(displacement[0, x, y, z] + np.float32(x))), 0), nx - 1)
                py = min(max(np.int64(np.rint(displacement[1, x, y, z] + np.float32(y))), 0), ny - 1)
                pz = min(max(np.int64(np.rint(displacement[2, x, y, z] + np.float32(z))), 0), nz - 1)
                found[x, y, z] = labels[px, py, pz]
