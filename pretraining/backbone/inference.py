"""Feature extraction from volumes of any size, in one pass or with a sliding window."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.common.child import hides_progress_bars
from pretraining.common.errors import InputError

_GAUSSIAN_STD = 0.25
"""Standard deviation of the windows' Gaussian weights, in window sides."""

Clip = tuple[float, float]
"""Intensities that are mapped to 0 and 1."""


def rescale_intensity(image: Tensor, clip: Clip | None = None) -> Tensor:
    """Scale intensities to [0, 1].

    Args:
        image: Floating-point tensor of any shape and range.
        clip: Intensities mapped to 0 and 1, values beyond are clipped; with it, scans in one unit
            are scaled equally. Default: minimum and maximum of the image.

    Returns:
        Tensor like ``image``. Without ``clip``, a constant image becomes zero.
    """
    if clip is None:
        lowest, highest = image.min(), image.max()
        return (image - lowest) / (highest - lowest).clamp_min(torch.finfo(image.dtype).tiny)
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
    """Compute the output features of a volume in one pass.

    Args:
        net: Network in evaluation mode; the volume is copied to its device.
        image: (X, Y, Z) float, any size and range; scaled by :func:`rescale_intensity`.
        clip: Intensities mapped to 0 and 1. Default: minimum and maximum of the image.
        bf16: Whether the network computes in bfloat16.
        pool: Side of the cubes over which features are averaged, voxels; see
            :func:`sliding_window_features`.
        voxelwise: Whether to normalize the features of each voxel, see
            :func:`normalize_voxelwise`.

    Returns:
        (C, X // pool, Y // pool, Z // pool) float32, on the device of ``image``.
    """
    padded, inside = _pad(net, rescale_intensity(image.float(), clip))
    features = _forward(net, padded, bf16)[(slice(None), *inside)]
    if voxelwise:
        features = normalize_voxelwise(features)
    return _pool(features, pool).contiguous().to(image.device)


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
    """Compute the output features of a volume, averaged over overlapping windows (App. B.4).

    Args:
        net: Network in evaluation mode, on any device. Windows are copied there one at a time, so
            that its memory does not depend on the volume.
        image: (X, Y, Z) float, any size and range; scaled as a whole by
            :func:`rescale_intensity`.
        side: Side of the windows, voxels; reduced along shorter axes of the volume.
        overlap: Overlap of neighbouring windows as a share of their side, in [0, 1).
        clip: Intensities mapped to 0 and 1. Default: minimum and maximum of the image.
        bf16: Whether the network computes in bfloat16.
        pool: Side of the cubes over which features are averaged, voxels, from the first voxel on.
            Incomplete cubes are omitted, as in :func:`torch.nn.functional.avg_pool3d`. Features of
            the whole volume are never in memory at full resolution.
        voxelwise: Whether to divide the features of each voxel by their root mean square, which
            networks with instance normalization need.
        progress: Whether to show a progress bar.

    Returns:
        (C, X // pool, Y // pool, Z // pool) float32, on the device of ``image``. Keep the image on
        the CPU if features of the whole volume do not fit into GPU memory.

    Raises:
        ValueError: If the network cannot process windows of that side, ``overlap`` is not in
            [0, 1), or no cube fits into a window and the volume.

    Notes:
        As in the published program, windows are weighted by a Gaussian with a standard deviation of
        a quarter of their side, since features near a window's border have less context. If an
        axis of the volume is shorter than a window, that program adds zeros up to the window's
        side; here the border is repeated, and only up to the size that the network needs.

        Weights are normalized before features are summed, so that pooling, which is linear, can
        come first. Voxelwise normalization is not linear: it is applied to the weighted average, as
        published, or, if that is pooled, to every window.
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
    padded, inside = _pad(net, rescale_intensity(image.float(), clip), at_most=side)
    device = next(net.parameters()).device
    axes = [
        _Axis(length, min(side, length), overlap, within, pool, device)
        for length, within in zip(padded.shape, inside, strict=True)
    ]
    total = image.new_zeros((net.config.out_channels, *(axis.cells for axis in axes)), dtype=torch.float32)
    corners = list(itertools.product(*(axis.starts for axis in axes)))
    for corner in tqdm(
        corners, desc="features", unit="window", disable=not progress or hides_progress_bars(), dynamic_ncols=True
    ):
        window = tuple(slice(start, start + axis.window) for start, axis in zip(corner, axes, strict=True))
        features = _forward(net, padded[window], bf16)
        if voxelwise and pool > 1:
            features = normalize_voxelwise(features)
        weights = [axis.normalized_weights(start) for start, axis in zip(corner, axes, strict=True)]
        features *= weights[0][:, None, None] * weights[1][:, None] * weights[2]
        locations = (axis.locate(start) for start, axis in zip(corner, axes, strict=True))
        kept, cells, margins = zip(*locations, strict=True)
        features = features[(slice(None), *kept)]
        if pool > 1:
            # Cubes cut by the window are padded with zeros; other windows add the missing part.
            features = functional.pad(features, [amount for ends in reversed(margins) for amount in ends])
        total[(slice(None), *cells)] += _pool(features, pool).to(total.device)
    return normalize_voxelwise(total) if voxelwise and pool == 1 else total


def padded_shape(net: FeatureNetwork, shape: Sequence[int], at_most: int | None = None) -> tuple[int, ...]:
    """Return the shape to which a volume is padded for a network.

    Args:
        net: Network to run.
        shape: (X, Y, Z) of the volume, voxels.
        at_most: Length from which an axis stays unchanged, voxels.

    Returns:
        (X, Y, Z), voxels.
    """
    multiple, least = net.config.multiple, net.config.min_side
    return tuple(
        length if at_most and length >= at_most else max(least, -(-length // multiple) * multiple) for length in shape
    )


class _Axis:
    """Windows along one axis of a padded volume, and the cubes of ``pool`` voxels that they fill.

    Args:
        length: Length of the padded volume, voxels.
        window: Length of each window, voxels.
        overlap: Overlap of neighbouring windows as a share of ``window``.
        inside: Position of the image in the padded volume.
        pool: Side of a cube, voxels.
        device: Device of the weights.
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
        # Windows form a grid and weights are separable, so the sum of weights is separable too.
        self._sum = torch.zeros(length, device=device)
        for start in self.starts:
            self._sum[start : start + window] += self._profile

    def normalized_weights(self, start: int) -> Tensor:
        """Return the (window,) weights of the window at ``start`` in the average."""
        return self._profile / self._sum[start : start + self.window]

    def locate(self, start: int) -> tuple[slice, slice, tuple[int, int]]:
        """Locate the window at ``start`` in the image.

        Returns:
            Voxels of the window inside the image; cubes that contain them; number of voxels of
            these cubes before and after them.
        """
        begin, end = max(start, self._begin), max(start, self._begin, min(start + self.window, self._end))
        first, last = (begin - self._begin) // self.pool, -(-(end - self._begin) // self.pool)
        margins = (begin - self._begin - first * self.pool, last * self.pool - (end - self._begin))
        return slice(begin - start, end - start), slice(first, last), margins


def _forward(net: FeatureNetwork, x: Tensor, bf16: bool) -> Tensor:
    """Compute (C, X, Y, Z) float32 features of an (X, Y, Z) window, on the network's device."""
    device = next(net.parameters()).device
    if device.type == "cpu":
        # Convolutions then need no copies between layouts: 15 % faster, in float32 and bfloat16.
        net.to(memory_format=torch.channels_last_3d)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        return net(x[None, None].to(device))[0].float()


def _pool(features: Tensor, pool: int) -> Tensor:
    return functional.avg_pool3d(features, pool) if pool > 1 else features


def _pad(net: FeatureNetwork, image: Tensor, at_most: int | None = None) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad an (X, Y, Z) image by repeated borders to a size that the network accepts.

    Returns:
        The padded image, and the position of the image in it.
    """
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
        eps: Lower bound of the root mean square.

    Returns:
        (..., C, X, Y, Z), vectors of length √C.

    Notes:
        The contrastive loss compares only directions. Length √C instead of 1 keeps single features
        near 1, as randomly initialized heads need.
    """
    return features / features.square().mean(-4, keepdim=True).clamp(min=eps**2).sqrt()
