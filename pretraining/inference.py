"""Features of whole volumes: the network on an image of any size, in one pass or window by window."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pretraining.backbone.unet import UNet

_GAUSSIAN_STD = 0.25
"""Of the windows' weights, in window sides."""


def rescaled(image: Tensor) -> Tensor:
    """Min-max to [0, 1]; a constant image becomes zero."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp_min(torch.finfo(image.dtype).tiny)


@torch.no_grad()
def whole_volume_features(net: UNet, image: Tensor) -> Tensor:
    """Output features of a volume in one pass.

    Parameters
    ----------
    net : in evaluation mode, on the device of ``image``.
    image : (X, Y, Z) float, any size and range; min-max scaled here.

    Returns
    -------
    (C, X, Y, Z) float32.
    """
    padded, inside = _padded(net, rescaled(image.float()))
    return net(padded[None, None])[0].float()[(slice(None), *inside)]


@torch.no_grad()
def sliding_window_features(net: UNet, image: Tensor, *, side: int = 128, overlap: float = 0.8, progress: bool = False) -> Tensor:
    """Output features of a volume of any size, averaged over overlapping windows (App. B.4).

    Parameters
    ----------
    net : in evaluation mode, on any device: windows are taken there one at a time, so that its memory does not depend on the volume.
    image : (X, Y, Z) float, any size and range; min-max scaled here, as a whole.
    side : of the windows, voxels; along a shorter axis of the volume, they are as long as that axis.
    overlap : of neighbouring windows, share of their side, in [0, 1).
    progress : whether to show a progress bar.

    Returns
    -------
    (C, X, Y, Z) float32, on the device of ``image``: keep that one on the CPU where features of the whole volume exceed a GPU.

    Raises
    ------
    ValueError
        If the network cannot take windows of that side, or for another overlap.

    Notes
    -----
    As in the published program, windows are weighted by a Gaussian with a standard deviation of a quarter of their side, since features
    near a window's border know less of what surrounds them. Where an axis of the volume is shorter than a window, that program adds
    zeros up to the window's side; here the border is repeated, and only up to what the network needs.
    """
    multiple, least = net.config.multiple, net.config.min_side
    if side % multiple or side < least:
        raise ValueError(f"need windows with a side that is a multiple of {multiple} and at least {least} voxels, got {side}")
    if not 0 <= overlap < 1:
        raise ValueError(f"need 0 <= overlap < 1, got {overlap}")
    padded, inside = _padded(net, rescaled(image.float()), at_most=side)
    sides = [min(side, length) for length in padded.shape]
    starts = [_starts(length, window, overlap) for length, window in zip(padded.shape, sides, strict=True)]
    weights = [_gaussian(window, padded.device) for window in sides]
    weight = weights[0][:, None, None] * weights[1][:, None] * weights[2]
    device = next(net.parameters()).device
    total = padded.new_zeros((net.config.out_channels, *padded.shape))
    for corner in tqdm(list(itertools.product(*starts)), desc="features", unit="window", disable=not progress, dynamic_ncols=True):
        window = tuple(slice(start, start + length) for start, length in zip(corner, sides, strict=True))
        total[(slice(None), *window)] += net(padded[window][None, None].to(device))[0].float().to(padded.device) * weight
    # The windows form a grid and a weight is a product, so their sum is a product of three sums along the axes.
    for axis, (begins, profile) in enumerate(zip(starts, weights, strict=True)):
        summed = torch.zeros(padded.shape[axis], device=padded.device)
        for begin in begins:
            summed[begin : begin + len(profile)] += profile
        total /= summed.view(-1, *(1,) * (2 - axis))
    return total[(slice(None), *inside)]


def _padded(net: UNet, image: Tensor, at_most: int | None = None) -> tuple[Tensor, tuple[slice, ...]]:
    """The (X, Y, Z) image with repeated borders, of a size that the network takes, and where in it the image lies.

    Axes of ``at_most`` voxels or more stay as they are.
    """
    multiple, least = net.config.multiple, net.config.min_side
    sides = [length if at_most and length >= at_most else max(least, -(-length // multiple) * multiple) for length in image.shape]
    margins = [side - length for side, length in zip(sides, image.shape, strict=True)]
    padding = [amount for margin in reversed(margins) for amount in (margin // 2, margin - margin // 2)]
    padded = functional.pad(image[None, None], padding, mode="replicate")[0, 0]
    return padded, tuple(slice(margin // 2, margin // 2 + length) for margin, length in zip(margins, image.shape, strict=True))


def _starts(length: int, window: int, overlap: float) -> Sequence[int]:
    """Where windows begin along an axis; the last one ends with it."""
    step = max(1, int(window * (1 - overlap)))
    return [*range(0, length - window, step), length - window]


def _gaussian(side: int, device: torch.device) -> Tensor:
    """Weights along one axis of a window, symmetric about its middle."""
    distance = torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2
    return torch.exp(-0.5 * (distance / (_GAUSSIAN_STD * side)) ** 2)
