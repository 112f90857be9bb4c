"""Local intensities: brighter or darker than the neighbourhood, in its own standard deviations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SIGMA = 5.0
"""Standard deviation of the Gaussian neighbourhood, voxels."""
_FLOOR = 0.1
"""Standard deviation that is added to the local one, share of that of the whole image."""
_TRUNCATE = 3.0
"""Radius of the Gaussian, standard deviations."""
_LIMIT = 8.0
"""Largest local intensity, which fluid and air beside bright tissue reach."""
_LEAST_SHARE = 1e-3
"""Share of foreground in a neighbourhood below which its mean tends to that of the image."""
_LEAST = torch.finfo(torch.float32).tiny


@torch.no_grad()
def local_intensity(image: Tensor, foreground: Tensor, *, pool: int = 1) -> Tensor:
    """Compute the intensities less their local mean, divided by their local standard deviation.

    Two scans of one contrast then agree in their values, whatever their scale, offset and bias
    field. Both moments are of the foreground alone, weighted by a Gaussian of :data:`SIGMA` voxels:
    with the background in them, scans of all modalities would agree in the outline of the body.

    Args:
        image: (X, Y, Z) float, at least ``pool`` voxels along every axis.
        foreground: (X, Y, Z) in [0, 1], weight of each voxel in the moments.
        pool: Side of the cubes over which intensities are averaged first, voxels; incomplete cubes
            at the ends of axes are omitted.

    Returns:
        (X // pool, Y // pool, Z // pool) float32 in [-8, 8], on the device of ``image``, of about
        unit variance in the foreground. It does not depend on offset and positive scale of the
        intensities. Beyond its borders the image is taken as repeated.

    Raises:
        ValueError: If image and foreground are not of one shape with three axes.
    """
    if image.ndim != 3 or image.shape != foreground.shape:
        raise ValueError(f"expected two volumes (X, Y, Z), got {tuple(image.shape)} and {tuple(foreground.shape)}")
    values, weight = (functional.avg_pool3d(volume.float()[None], pool)[0] for volume in (image, foreground))
    total, sigma = weight.sum().clamp_min(_LEAST), SIGMA / pool
    values = values - (values * weight).sum() / total
    values /= (values.square().mul_(weight).sum() / total).sqrt().clamp_min(_LEAST)
    local_weight = _local_mean(weight, sigma).clamp_min_(_LEAST_SHARE)
    values -= _local_mean(values * weight, sigma).div_(local_weight)
    variance = _local_mean(values.square().mul_(weight), sigma).div_(local_weight)
    return values.div_(variance.add_(_FLOOR**2).sqrt_()).clamp_(-_LIMIT, _LIMIT)


def _local_mean(values: Tensor, sigma: float) -> Tensor:
    """Average (X, Y, Z) with a Gaussian of ``sigma`` voxels, axis by axis.

    Sums of shifted volumes need memory for three volumes, convolutions ten times as much.
    """
    radius = max(1, round(_TRUNCATE * sigma))
    kernel = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    for axis in range(3):
        margins = [0] * 6
        margins[4 - 2 * axis : 6 - 2 * axis] = radius, radius
        padded = functional.pad(values[None], margins, mode="replicate")[0]
        values = torch.zeros_like(values)
        for start, factor in enumerate(kernel):
            values.add_(padded.narrow(axis, start, values.shape[axis]), alpha=factor / sum(kernel))
    return values
