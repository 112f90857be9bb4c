"""Features of whole volumes: the network on an image of any size, in one pass or window by window."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.common.errors import InputError

_GAUSSIAN_STD = 0.25
"""Of the windows' weights, in window sides."""

Clip = tuple[float, float]
"""Intensities between which an image is scaled to [0, 1]."""


def rescale_intensity(image: Tensor, clip: Clip | None = None) -> Tensor:
    """Scale to [0, 1].

    Args:
        image: Float, of any shape and range.
        clip: Intensities that become 0 and 1, with what lies beyond, so that two scans of one unit
            are scaled alike; left out, the least and the greatest of the image.

    Returns:
        As ``image``; a constant one becomes zero where ``clip`` does not say more.
    """
    if clip is None:
        least, greatest = image.min(), image.max()
        return (image - least) / (greatest - least).clamp_min(torch.finfo(image.dtype).tiny)
    low, high = clip
    if not -inf < low < high < inf:
        raise InputError(
            f"expected a clip window of two finite intensities, the lower one first, found {low:g} and {high:g}"
        )
    return (image.clamp(low, high) - low) / (high - low)


@torch.no_grad()
def whole_volume_features(
    net: FeatureNetwork,
    image: Tensor,
    *,
    clip: Clip | None = None,
    bf16: bool = False,
    pool: int = 1,
    voxelwise: bool = False,
) -> Tensor:
    """Output features of a volume in one pass.

    Args:
        net: In evaluation mode; the volume is taken to its device.
        image: (X, Y, Z) float, any size and range; scaled here.
        clip, bf16, pool, voxelwise: As for :func:`sliding_window_features`.

    Returns:
        (C, X // pool, Y // pool, Z // pool) float32, on the device of ``image``.
    """
    padded, inside = _padded(net, rescale_intensity(image.float(), clip))
    features = _forward(net, padded, bf16)[(slice(None), *inside)]
    if voxelwise:
        features = normalize_voxelwise(features)
    return _pooled(features, pool).contiguous().to(image.device)


@torch.no_grad()
def sliding_window_features(
    net: FeatureNetwork,
    image: Tensor,
    *,
    side: int = 128,
    overlap: float = 0.8,
    clip: Clip | None = None,
    bf16: bool = False,
    pool: int = 1,
    voxelwise: bool = False,
    progress: bool = False,
) -> Tensor:
    """Output features of a volume of any size, averaged over overlapping windows (App. B.4).

    Args:
        net: In evaluation mode, on any device: windows are taken there one at a time, so that its
            memory does not depend on the volume.
        image: (X, Y, Z) float, any size and range; scaled here, as a whole.
        side: Of the windows, voxels; along a shorter axis of the volume, they are as long as that
            axis.
        overlap: Of neighbouring windows, share of their side, in [0, 1).
        clip: Intensities that the network sees as 0 and 1; left out, the least and the greatest of
            the image.
        bf16: Whether the network computes in bfloat16.
        pool: Features are averaged over cubes of this side, voxels, counted from the image's first
            voxel; voxels after the last whole cube are left out, as in
            :func:`torch.nn.functional.avg_pool3d`. Features of the whole volume are never held at
            full resolution.
        voxelwise: Whether every voxel's features are divided by their root mean square, as those of
            networks with instance norm want.
        progress: Whether to show a progress bar.

    Returns:
        (C, X // pool, Y // pool, Z // pool) float32, on the device of ``image``: keep that one on
        the CPU where features of the whole volume exceed a GPU.

    Raises:
        ValueError: If the network cannot take windows of that side, for another overlap, or if no
            cube fits into a window and the volume.

    Notes:
        As in the published program, windows are weighted by a Gaussian with a standard deviation of
        a quarter of their side, since features near a window's border know less of what surrounds
        them. Where an axis of the volume is shorter than a window, that program adds zeros up to
        the window's side; here the border is repeated, and only up to what the network needs.

        Weights are normalized before features are added up, so that pooling, which is linear, can
        come first. Voxelwise normalization isn't: it acts on the blend, as published, or, where
        that is pooled, on every window.
    """
    multiple, least = net.config.multiple, net.config.min_side
    if side % multiple or side < least:
        raise ValueError(
            f"need windows with a side that is a multiple of {multiple} and at least {least} voxels, got {side}"
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"need 0 <= overlap < 1, got {overlap}")
    if not 1 <= pool <= min(side, *image.shape):
        raise ValueError(
            f"need 1 <= pool <= {min(side, *image.shape)}, the shortest side of window and volume, got {pool}"
        )
    padded, inside = _padded(net, rescale_intensity(image.float(), clip), at_most=side)
    device = next(net.parameters()).device
    axes = [
        _Axis(length, min(side, length), overlap, within, pool, device)
        for length, within in zip(padded.shape, inside, strict=True)
    ]
    total = image.new_zeros((net.config.out_channels, *(axis.cells for axis in axes)), dtype=torch.float32)
    corners = list(itertools.product(*(axis.starts for axis in axes)))
    for corner in tqdm(corners, desc="features", unit="window", disable=not progress, dynamic_ncols=True):
        window = tuple(slice(start, start + axis.window) for start, axis in zip(corner, axes, strict=True))
        features = _forward(net, padded[window], bf16)
        if voxelwise and pool > 1:
            features = normalize_voxelwise(features)
        shares = [axis.shares(start) for start, axis in zip(corner, axes, strict=True)]
        features *= shares[0][:, None, None] * shares[1][:, None] * shares[2]
        kept, cells, filled = zip(*(axis.place(start) for start, axis in zip(corner, axes, strict=True)), strict=True)
        features = features[(slice(None), *kept)]
        if pool > 1:
            # Cubes that the window cuts are filled up with zeros: other windows add their part.
            features = functional.pad(features, [amount for ends in reversed(filled) for amount in ends])
        total[(slice(None), *cells)] += _pooled(features, pool).to(total.device)
    return normalize_voxelwise(total) if voxelwise and pool == 1 else total


def padded_shape(net: FeatureNetwork, shape: Sequence[int], at_most: int | None = None) -> tuple[int, ...]:
    """The sides that the network takes in place of ``shape``; axes of ``at_most`` voxels or more stay as they are."""
    multiple, least = net.config.multiple, net.config.min_side
    return tuple(
        length if at_most and length >= at_most else max(least, -(-length // multiple) * multiple) for length in shape
    )


class _Axis:
    """Windows along one axis of a padded volume, and the cubes of ``pool`` voxels that they add to.

    Args:
        length: Of the padded volume.
        window: Of each window.
        overlap: Share of ``window``.
        inside: Where in the padded volume the image lies.
        pool: Side of a cube.
        device: Where features are weighted.
    """

    def __init__(
        self, length: int, window: int, overlap: float, inside: slice, pool: int, device: torch.device
    ) -> None:
        self.window, self.pool = window, pool
        step = max(1, int(window * (1 - overlap)))
        self.starts = [*range(0, length - window, step), length - window]
        self.cells = (inside.stop - inside.start) // pool
        self._begin, self._end = inside.start, inside.start + self.cells * pool
        distance = torch.arange(window, dtype=torch.float32, device=device) - (window - 1) / 2
        self._profile = torch.exp(-0.5 * (distance / (_GAUSSIAN_STD * window)) ** 2)
        # The windows form a grid and a weight is a product, so their sum is a product of three sums
        # along the axes.
        self._sum = torch.zeros(length, device=device)
        for start in self.starts:
            self._sum[start : start + window] += self._profile

    def shares(self, start: int) -> Tensor:
        """(window,), what the window at ``start`` contributes to the average."""
        return self._profile / self._sum[start : start + self.window]

    def place(self, start: int) -> tuple[slice, slice, tuple[int, int]]:
        """Which of its voxels count, in which cubes they lie, and how many voxels these have before and after them."""
        begin, end = max(start, self._begin), max(start, self._begin, min(start + self.window, self._end))
        first, last = (begin - self._begin) // self.pool, -(-(end - self._begin) // self.pool)
        filled = (begin - self._begin - first * self.pool, last * self.pool - (end - self._begin))
        return slice(begin - start, end - start), slice(first, last), filled


def _forward(net: FeatureNetwork, x: Tensor, bf16: bool) -> Tensor:
    """(C, X, Y, Z) float32 features of one (X, Y, Z) window, on the network's device."""
    device = next(net.parameters()).device
    if device.type == "cpu":
        # Convolutions then read and write this layout without copies: 15 % faster, in float32 and
        # in bfloat16.
        net.to(memory_format=torch.channels_last_3d)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        return net(x[None, None].to(device))[0].float()


def _pooled(features: Tensor, pool: int) -> Tensor:
    return functional.avg_pool3d(features, pool) if pool > 1 else features


def _padded(net: FeatureNetwork, image: Tensor, at_most: int | None = None) -> tuple[Tensor, tuple[slice, ...]]:
    """The (X, Y, Z) image with repeated borders, of a size that the network takes, and where in it the image lies."""
    margins = [side - length for side, length in zip(padded_shape(net, image.shape, at_most), image.shape, strict=True)]
    padding = [amount for margin in reversed(margins) for amount in (margin // 2, margin - margin // 2)]
    padded = functional.pad(image[None, None], padding, mode="replicate")[0, 0]
    return padded, tuple(
        slice(margin // 2, margin // 2 + length) for margin, length in zip(margins, image.shape, strict=True)
    )


def normalize_voxelwise(features: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide every voxel's features by their root mean square.

    Args:
        features: (..., C, X, Y, Z).
        eps: Least root mean square.

    Returns:
        (..., C, X, Y, Z), vectors of length √C.

    Notes:
        Only the direction is left, which is all that the contrastive loss compares. Length √C
        instead of 1 keeps single features near 1, where a head that starts at random wants them.
    """
    return features / features.square().mean(-4, keepdim=True).clamp(min=eps**2).sqrt()
