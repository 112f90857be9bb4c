"""Shapes without anatomy, from warped noise images (the label model ``smshapes`` of App. B.6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pretraining.common.checks import check_count, check_not_negative, check_positive, check_range
from pretraining.common.random import integer, noise_seed, uniforms
from pretraining.common.triple import triple
from pretraining.engine.execution import compile_loop
from pretraining.engine.fields import SmoothNoise, smooth_noise
from pretraining.engine.foreground import REFERENCE_SIDE
from pretraining.imaging.interpolation import interpolate_at

Shape = tuple[int, int, int]

POINTS_PER_NODE = 8
"""Points per node of the finest coarse grid at which fields are computed; between points they are
interpolated linearly.
"""


@dataclass(frozen=True, kw_only=True)
class SmShapesConfig:
    """Settings of shapes without anatomy; lengths are for a side of 128 voxels."""

    shape_count: tuple[int, int] = (20, 40)
    """Range of the number of labels, both ends included."""
    image_scales_vox: tuple[float, ...] = (32.0, 64.0)
    """Coarse-grid spacings of each label's noise image, voxels at side 128."""
    warp_scales_vox: tuple[float, ...] = (16.0, 32.0, 64.0)
    """Coarse-grid spacings of each image's displacement, voxels at side 128."""
    max_warp_std_vox: float = 16.0
    """Bound of each scale's std of displacement, drawn from U[0, max], voxels at side 128."""

    def __post_init__(self) -> None:
        check_range("[2, 250]", shape_count=self.shape_count)  # labels are 8-bit
        check_count(image_scales=len(self.image_scales_vox), warp_scales=len(self.warp_scales_vox))
        check_positive(image_scales_vox=self.image_scales_vox, warp_scales_vox=self.warp_scales_vox)
        check_not_negative(max_warp_std_vox=self.max_warp_std_vox)


@dataclass(frozen=True, kw_only=True)
class SmShapes:
    """Random parameters of one label map of shapes."""

    shape: Shape
    """Shape of the volume, voxels."""
    points: Shape
    """Shape of the grid of fields; its outermost points are the volume's outermost voxels."""
    images: tuple[SmoothNoise, ...]
    """Noise image of each label; lengths in steps of the grid of points."""
    warps: tuple[SmoothNoise, ...]
    """Displacement of each label's image; lengths and values in steps of the grid of points."""

    @property
    def label_count(self) -> int:
        """Upper bound of the labels: they are in 0..label_count - 1."""
        return len(self.images)


def sample_smshapes(config: SmShapesConfig, shape: Shape, generator: Generator) -> SmShapes:
    """Draw the number of labels, and image and displacement of each.

    Args:
        config: Ranges.
        shape: (X, Y, Z) of the volume, voxels.
        generator: Sole source of randomness.

    Returns:
        All that :func:`render_smshapes` needs.

    Notes:
        The std of each scale of the images is drawn from U[0, 1]: only ratios have an effect.
    """
    scale = min(shape) / REFERENCE_SIDE
    step = max(1.0, min(*config.image_scales_vox, *config.warp_scales_vox) * scale / POINTS_PER_NODE)
    count = integer(*config.shape_count, generator)
    image_stds = uniforms(len(config.image_scales_vox), 0.0, 1.0, generator)
    warp_stds = uniforms(len(config.warp_scales_vox), 0.0, config.max_warp_std_vox * scale / step, generator)

    def per_label(scales_vox: tuple[float, ...], stds: list[float]) -> tuple[SmoothNoise, ...]:
        scales = tuple(spacing * scale / step for spacing in scales_vox)
        return tuple(
            SmoothNoise(scales_vox=scales, stds=tuple(stds), noise_seed=noise_seed(generator)) for _ in range(count)
        )

    return SmShapes(
        shape=shape,
        points=triple(max(2, math.ceil(size / step)) for size in shape),
        images=per_label(config.image_scales_vox, image_stds),
        warps=per_label(config.warp_scales_vox, warp_stds),
    )


def render_smshapes(params: SmShapes, device: torch.device | str = "cpu") -> Tensor:
    """Render the label volume.

    Args:
        params: Parameters from :func:`sample_smshapes`.
        device: Device that computes the volume.

    Returns:
        (X, Y, Z) uint8: the label whose warped image is the brightest at the voxel. Label 0 is a
        shape like any other and covers no larger a share of the volume.

    References:
        Hoffmann et al., SynthMorph, TMI 2022, arXiv:2004.10282.

    Notes:
        Scales and stds are those of the authors' public demonstration (2D, 256²; others use them
        unchanged at 128³), where all labels of a volume share the stds. The number of labels
        varies, whereas SynthMorph has 26 (App. B.6). There is no foreground mask: it is a part of
        the label ensemble, which this model replaces. As in SynthMorph, the first shape is the
        background, and the appearance model may set it to 0.

        Two differences: lengths scale with side/128, and warped images are computed on a coarser
        grid, with eight points per node of the finest noise, and interpolated linearly. At 128³
        this needs an eighth of the lookups and moves borders by a fraction of a voxel. Labels are
        processed one by one, so that only one image exists at a time.
    """
    labels = torch.zeros(params.shape, dtype=torch.uint8, device=device)
    brightest = torch.full(params.shape, -math.inf, device=device)
    for label, (image, warp) in enumerate(zip(params.images, params.warps, strict=True)):
        values = smooth_noise(params.points, image, device=device)[0]
        displacement = smooth_noise(params.points, warp, channels=3, device=device)
        if labels.device.type == "cpu":
            _keep_brightest_on_host(label, _warp_on_host(values, displacement), brightest, labels)
        else:
            _keep_brightest_on_device(label, _warp_on_device(values, displacement), brightest, labels)
    return labels


def _warp_on_device(values: Tensor, displacement: Tensor) -> Tensor:
    """Interpolate (X, Y, Z) values at displaced positions; border values are repeated outside."""
    positions = []
    for axis, size in enumerate(values.shape):
        index = torch.arange(size, device=values.device).view([-1 if a == axis else 1 for a in range(3)])
        positions.append(displacement[axis] + index)
    return interpolate_at(values[None], positions, beyond="border")[0]


def _warp_on_host(values: Tensor, displacement: Tensor) -> Tensor:
    """Compute :func:`_warp_on_device` in a compiled loop, which is faster on a CPU.

    The bits of a seed's samples depend on its order of operations.
    """
    warped = torch.empty_like(values)
    _warp(values.numpy(), displacement.numpy(), warped.numpy())
    return warped


def _keep_brightest_on_device(label: int, image: Tensor, brightest: Tensor, labels: Tensor) -> None:
    """Update ``brightest`` and ``labels`` where ``image``, upsampled to the volume, is brighter."""
    image = F.interpolate(image[None, None], labels.shape, mode="trilinear", align_corners=True)[0, 0]
    labels.masked_fill_(image > brightest, label)
    torch.maximum(image, brightest, out=brightest)


def _keep_brightest_on_host(label: int, image: Tensor, brightest: Tensor, labels: Tensor) -> None:
    tables = [_linear_weights(points, size) for points, size in zip(image.shape, labels.shape, strict=True)]
    below, weight = zip(*tables, strict=True)
    _keep_brightest(np.uint8(label), image.numpy(), below, weight, brightest.numpy(), labels.numpy())


def _linear_weights(points: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the previous point of each of ``size`` voxels and the weight of the next point."""
    position = np.arange(size) * ((points - 1) / max(size - 1, 1))
    below = np.minimum(position.astype(np.int64), points - 2)
    return below, (position - below).astype(np.float32)


@compile_loop
def _warp(values, displacement, warped):
    nx, ny, nz = values.shape
    zero = np.float32(0)
    last_x, last_y, last_z = np.float32(nx - 1), np.float32(ny - 1), np.float32(nz - 1)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                px = min(max(displacement[0, x, y, z] + np.float32(x), zero), last_x)
                py = min(max(displacement[1, x, y, z] + np.float32(y), zero), last_y)
                pz = min(max(displacement[2, x, y, z] + np.float32(z), zero), last_z)
                # The last point has no next one: it gets weight 1 from the one before it.
                x0, y0, z0 = min(np.int64(px), nx - 2), min(np.int64(py), ny - 2), min(np.int64(pz), nz - 2)
                sx, sy, sz = px - np.float32(x0), py - np.float32(y0), pz - np.float32(z0)
                low_low = values[x0, y0, z0] + sz * (values[x0, y0, z0 + 1] - values[x0, y0, z0])
                low_high = values[x0, y0 + 1, z0] + sz * (values[x0, y0 + 1, z0 + 1] - values[x0, y0 + 1, z0])
                high_low = values[x0 + 1, y0, z0] + sz * (values[x0 + 1, y0, z0 + 1] - values[x0 + 1, y0, z0])
                high_high = values[x0 + 1, y0 + 1, z0] + sz * (
                    values[x0 + 1, y0 + 1, z0 + 1] - values[x0 + 1, y0 + 1, z0]
                )
                low = low_low + sy * (low_high - low_low)
                high = high_low + sy * (high_high - high_low)
                warped[x, y, z] = low + sx * (high - low)


@compile_loop
def _keep_brightest(label, image, below, weight, brightest, labels):
    """Interpolate planes, then rows, so that each voxel needs one interpolation along z only."""
    nx, ny, nz = labels.shape
    points_z = image.shape[2]
    row = np.empty(points_z, np.float32)
    for x in range(nx):
        low, high, sx = image[below[0][x]], image[below[0][x] + 1], weight[0][x]
        for y in range(ny):
            y0, sy = below[1][y], weight[1][y]
            for z in range(points_z):
                near = low[y0, z] + sx * (high[y0, z] - low[y0, z])
                far = low[y0 + 1, z] + sx * (high[y0 + 1, z] - low[y0 + 1, z])
                row[z] = near + sy * (far - near)
            for z in range(nz):
                z0 = below[2][z]
                value = row[z0] + weight[2][z] * (row[z0 + 1] - row[z0])
                brighter = value > brightest[x, y, z]
                brightest[x, y, z] = value if brighter else brightest[x, y, z]
                labels[x, y, z] = label if brighter else labels[x, y, z]
