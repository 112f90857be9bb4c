"""What the solver compares: MIND-SSC beside the features of the pretrained network, of both scans on one grid (App. B.4.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.external import fit_window_side
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.inference import sliding_window_features
from pretraining.common.checks import check_count, check_not_negative, check_within
from pretraining.common.errors import InputError
from pretraining.imaging.mind import CHANNELS as MIND_CHANNELS
from pretraining.imaging.mind import pooled_mind_ssc

log = logging.getLogger(__name__)

_LEAST_FOREGROUND = 0.02
"""Share of the known voxels."""


@dataclass(frozen=True, kw_only=True)
class DescriptorConfig:
    """Which descriptors, and how much each counts."""

    mind: bool = True
    """Whether MIND-SSC (radius 1, dilation 2; 12 channels) takes part."""
    feature_weight: float = 0.3
    """Factor of the features, after they were scaled; 0 leaves the network out."""
    channels: int | None = None
    """At most so many channels in all, by principal components of both scans' descriptors; None
    keeps them as they are.
    """
    side: int = 128
    """Of the network's windows, voxels."""
    overlap: float = 0.5
    """Of neighbouring windows, share of their side; .8 in the paper."""
    bf16: bool = False
    """Whether the network computes in bf16."""

    def __post_init__(self) -> None:
        if not self.mind and self.feature_weight == 0:
            raise InputError("nothing to compare: let MIND-SSC take part, or give the features a weight")
        check_not_negative(feature_weight=self.feature_weight)
        check_within("[0, 1)", overlap=self.overlap)
        check_count(side=self.side, channels=self.channels)

    def count(self, net: FeatureNetwork | None) -> int:
        """Channels before any reduction."""
        return (MIND_CHANNELS if self.mind else 0) + (net.config.out_channels if net and self.feature_weight else 0)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan on the grid of a registration.

    Attributes:
        image: (X, Y, Z) float32.
        known: (X, Y, Z) in {0, 1}, where something is known of it: inside its mask and its field of
            view; None for everywhere.
        clip: Intensities beyond which the scan is cut, and which the network sees as 0 and 1; None
            for the least and the greatest.
    """

    image: Tensor
    known: Tensor | None = None
    clip: tuple[float, float] | None = None


@torch.no_grad()
def descriptors(
    fixed: Scan,
    moving: Scan,
    config: DescriptorConfig,
    *,
    pool: int,
    net: FeatureNetwork | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Describe two scans alike.

    Args:
        fixed, moving: On one grid.
        config: Which descriptors.
        pool: Descriptors are averaged over cubes of this side, voxels; at full resolution they are
            never held.
        net: In evaluation mode, on the device to compute on; not needed where features have no
            weight.
        progress: Whether to show a bar.

    Returns:
        (C, X // pool, Y // pool, Z // pool) float32 each, MIND-SSC first.

    Notes:
        Every channel of the features is centred and scaled to unit standard deviation over the
        foreground (Otsu), in each scan by itself: what a modality adds to a channel everywhere says
        nothing about anatomy. Outside a mask the nearest voxel inside is repeated, as in
        ConvexAdam's masked variant, so that the mask's border is no edge.
    """
    fixed_described, moving_described = (
        describe(scan, config, pool=pool, net=net, progress=progress) for scan in (fixed, moving)
    )
    if config.channels and config.channels < len(fixed_described):
        return reduce_features(fixed_described, moving_described, config.channels)
    return fixed_described, moving_described


@torch.no_grad()
def describe(
    scan: Scan, config: DescriptorConfig, *, pool: int, net: FeatureNetwork | None = None, progress: bool = False
) -> Tensor:
    """Describe one scan: :func:`descriptors` before any reduction of channels."""
    scan = _filled(_clipped(scan))
    features = None
    if config.feature_weight:
        if net is None:
            raise ValueError("features have a weight, but there is no network to make them")
        # Run the network first, while little else is held: it has the highest peak memory.
        features = _features(scan, net, config, pool, progress)
    # Channels last in memory, as the solver reads them.
    described = scan.image.new_empty((*(side // pool for side in scan.image.shape), config.count(net))).movedim(-1, 0)
    if features is not None:
        described[-len(features) :] = features
        del features
    if config.mind:
        pooled_mind_ssc(scan.image, pool, out=described[:MIND_CHANNELS])
    return described


def reduce_features(fixed: Tensor, moving: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The ``channels`` principal components of both; differences keep as much of their length as that many channels can hold.

    Args:
        fixed, moving: (C, X, Y, Z) each.

    Returns:
        (channels, X, Y, Z) each.
    """
    both = (fixed.flatten(1), moving.flatten(1))
    voxels = sum(values.shape[1] for values in both)
    mean = torch.add(*(values.sum(1, dtype=torch.float64) for values in both)) / voxels
    second = torch.add(*((values @ values.T).double() for values in both)) / voxels
    axes = torch.linalg.eigh(second - mean[:, None] * mean).eigenvectors[:, -channels:].flip(1).float()
    on_axes = [axes.T @ values for values in both]
    return on_axes[0].view(channels, *fixed.shape[1:]), on_axes[1].view(channels, *moving.shape[1:])


def _features(scan: Scan, net: FeatureNetwork, config: DescriptorConfig, pool: int, progress: bool) -> Tensor:
    features = sliding_window_features(
        net,
        scan.image,
        side=fit_window_side(net, config.side),
        overlap=config.overlap,
        clip=scan.clip,
        bf16=config.bf16,
        pool=pool,
        progress=progress,
    )
    inside = functional.avg_pool3d(_foreground(scan)[None], pool)[0] > 0.5
    std, mean = torch.std_mean(features[:, inside], dim=1)
    shape = (-1, 1, 1, 1)
    return features.sub_(mean.view(shape)).mul_(
        config.feature_weight / std.clamp_min(torch.finfo(std.dtype).tiny).view(shape)
    )


def _foreground(scan: Scan) -> Tensor:
    """(X, Y, Z) in {0, 1}: what is known and brighter than Otsu's threshold; all that is known, if that leaves next to nothing."""
    values = scan.image
    known = torch.ones_like(values) if scan.known is None else scan.known.float()
    bright = known * (values > threshold_otsu(values[known > 0].cpu().numpy()))
    return bright if bright.sum() > _LEAST_FOREGROUND * known.sum() else known


def _clipped(scan: Scan) -> Scan:
    return replace(scan, image=scan.image.clamp(*scan.clip)) if scan.clip else scan


def _filled(scan: Scan) -> Scan:
    """The scan with the nearest known voxel's value wherever nothing is known."""
    if scan.known is None or bool(scan.known.all()):
        return scan
    unknown = (scan.known == 0).cpu().numpy()
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    image = scan.image[tuple(torch.from_numpy(axis).to(scan.image.device) for axis in nearest)]
    return replace(scan, image=image)
