"""MIND-SSC: what a neighbourhood looks like to itself, a descriptor that barely changes between modalities."""

from __future__ import annotations

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
"""The pairs of the six neighbours that are not opposite each other, sqrt(2) apart; in the order of the authors' programs, so that
descriptors can be compared channel by channel."""
CHANNELS = len(_PAIRS)
_VARIANCE_RANGE = (1e-3, 1e3)
"""Bounds of the local variance, in units of its mean over the volume."""


@torch.no_grad()
def mind_ssc(image: Tensor, *, radius: int = 1, dilation: int = 2) -> Tensor:
    """Self-similarity context of every voxel.

    Around each voxel, the six neighbours at distance ``dilation`` form 12 pairs. A channel is exp(-D / V): D is the mean squared
    difference of the two patches around a pair's neighbours, less the smallest D of the voxel, and V the mean D of the voxel,
    bounded by 1/1000 and 1000 times its mean over the volume.

    Parameters
    ----------
    image : (X, Y, Z) or (B, 1, X, Y, Z), any range: an affine change of the intensities changes nothing.
    radius : patches have 2 * radius + 1 voxels a side.
    dilation : distance of the neighbours, voxels.

    Returns
    -------
    (12, X, Y, Z) or (B, 12, X, Y, Z) float32 in (0, 1], on the device of ``image``; 1 everywhere where the image is constant. Borders are
    repeated outwards. Besides the result, about five volumes are held at a time.

    Raises
    ------
    ValueError
        For another shape, a negative radius or a dilation below 1.

    References
    ----------
    Heinrich et al., Towards Realtime Multimodal Fusion for Image-Guided Interventions Using Self-Similarities, MICCAI 2013;
    Heinrich et al., MIND: Modality Independent Neighbourhood Descriptor, Medical Image Analysis 16(7), 2012.
    """
    if not (image.ndim == 3 or (image.ndim == 5 and image.shape[1] == 1)):
        raise ValueError(f"expected (X, Y, Z) or (B, 1, X, Y, Z), got {tuple(image.shape)}")
    if radius < 0 or dilation < 1:
        raise ValueError(f"need radius >= 0 and dilation >= 1, got {radius} and {dilation}")
    volumes = image.float().reshape(-1, 1, *image.shape[-3:])
    padded = functional.pad(volumes, (dilation,) * 6, mode="replicate")

    def neighbour(direction: tuple[int, int, int]) -> Tensor:
        starts = [dilation * (1 + step) for step in direction]
        inside = [slice(start, start + side) for start, side in zip(starts, volumes.shape[2:], strict=True)]
        return padded[(slice(None), slice(None), *inside)]

    distances = volumes.new_empty((len(volumes), CHANNELS, *volumes.shape[2:]))
    for channel, (one, other) in enumerate(_PAIRS):
        distances[:, channel] = _box_mean((neighbour(one) - neighbour(other)).square_(), radius)[:, 0]
    distances -= distances.amin(dim=1, keepdim=True)
    variance = distances.mean(dim=1, keepdim=True)
    typical = variance.mean(dim=(1, 2, 3, 4), keepdim=True)
    low, high = _VARIANCE_RANGE
    variance.clamp_(low * typical, high * typical).clamp_min_(torch.finfo(variance.dtype).tiny)
    return distances.div_(variance).neg_().exp_().view(*image.shape[:-4], CHANNELS, *image.shape[-3:])


def _box_mean(volumes: Tensor, radius: int) -> Tensor:
    """Mean over cubes of 2 * radius + 1 voxels a side, one axis after the other; (B, 1, X, Y, Z)."""
    side = 2 * radius + 1
    for axis in (2, 3, 4):
        margins = [radius if axis == padded_axis else 0 for padded_axis in (4, 4, 3, 3, 2, 2)]
        padded = functional.pad(volumes, margins, mode="replicate")
        volumes = padded.narrow(axis, 0, volumes.shape[axis]).clone()
        for shift in range(1, side):
            volumes += padded.narrow(axis, shift, volumes.shape[axis])
    return volumes.div_(side**3)
