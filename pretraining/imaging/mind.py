"""MIND-SSC: self-similarity descriptors, which depend little on the modality."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

_PAIRS = (
    ((1, 0, 0), (0, -1, 0)),
    ((0, 1, 0), (-1, 0, 0)),
    ((0, -1, 0), (-1, 0, 0)),
    ((0, 1, 0), (1, 0, 0)),
    ((0, -1, 0), (0, 0, -1)),
    ((0, 1, 0), (0, 0, 1)),
    ((0, 0, -1), (-1, 0, 0)),
    ((1, 0, 0), (0, 0, 1)),
    ((0, 1, 0), (0, 0, -1)),
    ((0, 0, 1), (0, -1, 0)),
    ((1, 0, 0), (0, 0, -1)),
    ((0, 0, 1), (-1, 0, 0)),
)
"""Pairs of the six neighbours that are not opposite each other, sqrt(2) apart. The order is that of
the authors' programs, so that descriptors can be compared channel by channel.
"""
CHANNELS = len(_PAIRS)
_VARIANCE_RANGE = (1e-3, 1e3)
"""Bounds of the local variance, in units of its mean over the volume."""
_SLAB_VOXELS = 2**19
"""Number of voxels processed at once."""


@torch.no_grad()
def mind_ssc(image: Tensor, *, radius: int = 1, dilation: int = 2) -> Tensor:
    """Compute the self-similarity context of every voxel.

    Around each voxel, the six neighbours at distance ``dilation`` form 12 pairs. A channel is
    exp(-D / V): D is the mean squared difference of the two patches around a pair's neighbours,
    less the smallest D of the voxel, and V the mean D of the voxel, bounded by 1/1000 and 1000
    times its mean over the volume.

    Args:
        image: (X, Y, Z) or (B, 1, X, Y, Z) of any range; the result does not depend on scale and
            offset of the intensities.
        radius: Radius of the patches, which have 2 * radius + 1 voxels per side.
        dilation: Distance of the neighbours, voxels.

    Returns:
        (12, X, Y, Z) or (B, 12, X, Y, Z) float32 in (0, 1], on the device of ``image``; 1 in
        constant regions. Border voxels are repeated outwards. The computation needs memory for
        about five volumes besides the result.

    Raises:
        ValueError: For another shape, a negative radius or a dilation below 1.

    References:
        Heinrich et al., Towards Realtime Multimodal Fusion for Image-Guided Interventions Using
        Self-Similarities, MICCAI 2013; Heinrich et al., MIND: Modality Independent Neighbourhood
        Descriptor, Medical Image Analysis 16(7), 2012.
    """
    if not (image.ndim == 3 or (image.ndim == 5 and image.shape[1] == 1)):
        raise ValueError(f"expected (X, Y, Z) or (B, 1, X, Y, Z), got {tuple(image.shape)}")
    if image.ndim == 5:
        return torch.stack([mind_ssc(volume, radius=radius, dilation=dilation) for volume in image[:, 0]])
    distances = _Distances(image, radius, dilation).compute_planes(0, len(image))
    return _describe(distances, distances.mean(dim=0).mean())


@torch.no_grad()
def pooled_mind_ssc(
    image: Tensor, pool: int, *, radius: int = 1, dilation: int = 2, out: Tensor | None = None
) -> Tensor:
    """Compute :func:`mind_ssc` averaged over cubes, without its channels at full resolution.

    Args:
        image: (X, Y, Z), at least ``pool`` voxels along every axis.
        pool: Side of the cubes, voxels; incomplete cubes at the ends of axes are omitted.
        radius: Radius of the patches, see :func:`mind_ssc`.
        dilation: Distance of the neighbours, voxels.
        out: Tensor for the result. Default: a new tensor.

    Returns:
        (12, X // pool, Y // pool, Z // pool) float32.
    """
    if out is None:
        out = image.new_empty((CHANNELS, *(side // pool for side in image.shape)), dtype=torch.float32)
    if pool == 1:
        return out.copy_(mind_ssc(image, radius=radius, dilation=dilation))
    distances = _Distances(image, radius, dilation)
    thickness = pool * max(1, _SLAB_VOXELS // (pool * image[0].numel()))
    slabs = [(first, min(first + thickness, len(image))) for first in range(0, len(image), thickness)]
    # Two passes over the volume: the descriptors need the mean variance.
    totals = (distances.compute_planes(*slab).mean(dim=0).sum(dtype=torch.float64) for slab in slabs)
    mean_variance = reduce(torch.add, totals) / image.numel()
    for first, last in slabs:
        if last - first >= pool:
            descriptors = _describe(distances.compute_planes(first, last), mean_variance.float())
            out[:, first // pool : last // pool] = functional.avg_pool3d(descriptors, pool)
    return out


class _Distances:
    """Patch distances of the 12 pairs, less the smallest of each voxel, computed plane by plane.

    Args:
        image: (X, Y, Z).
        radius: Radius of the patches, voxels.
        dilation: Distance of the neighbours, voxels.
    """

    def __init__(self, image: Tensor, radius: int, dilation: int) -> None:
        if radius < 0 or dilation < 1:
            raise ValueError(f"need radius >= 0 and dilation >= 1, got {radius} and {dilation}")
        self._shape, self._radius, self._dilation = image.shape, radius, dilation
        self._padded = functional.pad(image.float()[None, None], (dilation,) * 6, mode="replicate")

    def compute_planes(self, first: int, last: int) -> Tensor:
        """Compute the distances in planes along X, (12, last - first, Y, Z)."""
        radius, dilation = self._radius, self._dilation
        # Patches extend beyond the planes into the image.
        low, high = max(0, first - radius), min(self._shape[0], last + radius)

        def neighbour(direction: tuple[int, int, int]) -> Tensor:
            starts = [dilation * (1 + step) for step in direction]
            sides = (high - low, *self._shape[1:])
            starts[0] += low
            return self._padded[
                (
                    slice(None),
                    slice(None),
                    *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)),
                )
            ]

        distances = self._padded.new_empty((CHANNELS, last - first, *self._shape[1:]))
        for channel, (first_direction, second_direction) in enumerate(_PAIRS):
            difference = (neighbour(first_direction) - neighbour(second_direction)).square_()
            distances[channel] = _box_mean(difference, radius)[0, 0, first - low : last - low]
        return distances.sub_(distances.amin(dim=0))


def _describe(distances: Tensor, mean_variance: Tensor) -> Tensor:
    """Compute exp(-D / V), in place."""
    low, high = (bound * mean_variance for bound in _VARIANCE_RANGE)
    variance = distances.mean(dim=0).clamp_(low, high).clamp_min_(torch.finfo(distances.dtype).tiny)
    return distances.div_(variance).neg_().exp_()


def _box_mean(volumes: Tensor, radius: int) -> Tensor:
    """Average (B, 1, X, Y, Z) over cubes of 2 * radius + 1 voxels per side, axis by axis."""
    side = 2 * radius + 1
    for axis in (2, 3, 4):
        margins = [radius if axis == padded_axis else 0 for padded_axis in (4, 4, 3, 3, 2, 2)]
        padded = functional.pad(volumes, margins, mode="replicate")
        volumes = padded.narrow(axis, 0, volumes.shape[axis]).clone()
        for shift in range(1, side):
            volumes += padded.narrow(axis, shift, volumes.shape[axis])
    return volumes.div_(side**3)
