"""Descriptors for registration: MIND-SSC and features of the pretrained network (App. B.4.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.external import fit_window_side
from pretraining.backbone.feature_network import FeatureNetwork, compares_directions
from pretraining.backbone.inference import sliding_window_features
from pretraining.common.checks import check_count, check_not_negative, check_within
from pretraining.common.errors import InputError
from pretraining.imaging.local_intensity import local_intensity
from pretraining.imaging.mind import CHANNELS as MIND_CHANNELS
from pretraining.imaging.mind import pooled_mind_ssc

log = logging.getLogger(__name__)

_MIN_FOREGROUND = 0.02
"""Minimum share of foreground among the known voxels."""
_MIN_CORRELATION = 0.2
"""Correlation of local intensities below which the scans are not of one contrast."""
_MAX_CORRELATION = 0.9
"""Correlation of local intensities up to which their weight grows."""
_INTENSITY_SCALE = 2**0.5
"""Weight of intensities whose noise is as strong as their signal; MIND-SSC has a weight of 1."""


@dataclass(frozen=True, kw_only=True)
class DescriptorConfig:
    """Selection and weights of the descriptors."""

    mind: bool = True
    """Include MIND-SSC (radius 1, dilation 2; 12 channels)."""
    intensity: bool = False
    """Include local intensities beside MIND-SSC, as far as the scans agree in them: one more
    channel, for scans of one contrast. Without MIND-SSC they are not included."""
    feature_weight: float = 0.3
    """Factor of the standardized features; 0 excludes the network."""
    channels: int | None = None
    """Maximum number of channels, by principal components of both scans. Default: no limit."""
    side: int = 128
    """Side of the network's windows, voxels."""
    overlap: float = 0.5
    """Overlap of neighbouring windows, share of their side; 0.8 in the paper."""
    bf16: bool = False
    """Run the network in bfloat16."""

    def __post_init__(self) -> None:
        if not self.mind and self.feature_weight == 0:
            raise InputError(
                "descriptors: expected MIND-SSC or features, found neither; enable mind, or set feature_weight above 0"
            )
        check_not_negative(feature_weight=self.feature_weight)
        check_within("[0, 1)", overlap=self.overlap)
        check_count(side=self.side, channels=self.channels)

    def count(self, net: FeatureNetwork | None) -> int:
        """Return the number of channels before any reduction."""
        features = net.config.out_channels if net and self.feature_weight else 0
        return (MIND_CHANNELS if self.mind else 0) + features + int(self.with_intensity)

    @property
    def with_intensity(self) -> bool:
        """Whether local intensities are included."""
        return self.intensity and self.mind


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan on the grid of a registration.

    Attributes:
        image: (X, Y, Z) float32.
        known: (X, Y, Z) in {0, 1}, 1 inside the mask and the field of view; None for everywhere.
        clip: Intensity range to which the scan is clipped, seen by the network as 0 and 1; None
            for its minimum and maximum.
        more: Further channels on the same grid, whose descriptors are added.
    """

    image: Tensor
    known: Tensor | None = None
    clip: tuple[float, float] | None = None
    more: tuple[Scan, ...] = ()


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
    """Compute the descriptors of two scans.

    Args:
        fixed: Fixed scan.
        moving: Moving scan on the same grid.
        config: Selection and weights.
        pool: Side of the cubes over which descriptors are averaged, voxels. They are never held at
            full resolution.
        net: Network in evaluation mode, on the device to compute on; not needed if features have no
            weight.
        progress: Show a progress bar.

    Returns:
        Two tensors (C, X // pool, Y // pool, Z // pool) float32: MIND-SSC, features, intensity.

    Notes:
        Every feature channel is standardized over the foreground (Otsu) of each scan: a constant
        offset that a modality adds to a channel carries no anatomy. Outside a mask the nearest
        voxel inside is repeated, as in ConvexAdam's masked variant, so that the border of the mask
        is not an edge.

        Between scans of one contrast, intensities tell places apart that have the same edges. They
        are compared by :func:`pretraining.imaging.local_intensity.local_intensity`, multiplied by
        :func:`intensity_weight`.
    """
    fixed_described, moving_described = (
        describe(scan, config, pool=pool, net=net, progress=progress) for scan in (fixed, moving)
    )
    if config.with_intensity:
        _fill_intensities((fixed, moving), (fixed_described, moving_described), pool)
    if config.channels and config.channels < len(fixed_described):
        return reduce_features(fixed_described, moving_described, config.channels)
    return fixed_described, moving_described


@torch.no_grad()
def describe(
    scan: Scan, config: DescriptorConfig, *, pool: int, net: FeatureNetwork | None = None, progress: bool = False
) -> Tensor:
    """Compute the descriptors of one scan, as :func:`descriptors` without reduction of channels.

    The channel of intensities is 0, since its weight depends on the other scan.
    """
    if scan.more:
        channels = (replace(scan, more=()), *scan.more)
        return torch.cat([describe(one, config, pool=pool, net=net, progress=progress) for one in channels])
    scan = replace(scan, image=comparable_image(scan))
    features = None
    if config.feature_weight:
        if net is None:
            raise ValueError("feature_weight is above 0, expected a network, found none")
        # Run the network first, while little else is held: it has the highest peak memory.
        features = _standardized_features(scan, net, config, pool, progress)
    # Channels are last in memory, as the solver reads them.
    described = scan.image.new_empty((*(side // pool for side in scan.image.shape), config.count(net))).movedim(-1, 0)
    first = MIND_CHANNELS if config.mind else 0
    if features is not None:
        described[first : first + len(features)] = features
        del features
    if config.mind:
        pooled_mind_ssc(scan.image, pool, out=described[:MIND_CHANNELS])
    if config.with_intensity:
        described[-1] = 0
    return described


def intensity_weight(fixed: Tensor, moving: Tensor, inside: Tensor) -> float:
    """Compute the weight of local intensities from how well two scans agree in them.

    Args:
        fixed: (X, Y, Z) local intensities of the fixed scan.
        moving: (X, Y, Z) local intensities of the moving scan on the same grid.
        inside: (X, Y, Z) bool, voxels to compare: the foreground of both.

    Returns:
        sqrt(2) r / sqrt(1 - r²), where r is their correlation, at most .9; 0 if r is below .2. If
        the moving scan is r times the fixed one plus noise, the square is twice the ratio of signal
        to noise.
    """
    one, other = (values[inside] - values[inside].mean() for values in (fixed, moving))
    correlation = functional.cosine_similarity(one, other, dim=0).nan_to_num().clamp_max(_MAX_CORRELATION)
    if correlation < _MIN_CORRELATION:
        return 0.0
    return (_INTENSITY_SCALE * correlation / (1 - correlation.square()).sqrt()).item()


def _fill_intensities(scans: tuple[Scan, Scan], described: tuple[Tensor, Tensor], pool: int) -> None:
    """Write the weighted local intensities to the last channel of each channel's descriptors."""
    channels = [(replace(scan, more=()), *scan.more) for scan in scans]
    count = len(described[0]) // len(channels[0])
    for number, pair in enumerate(zip(*channels, strict=True), 1):
        (fixed, fixed_inside), (moving, moving_inside) = (_local_intensities(scan, pool) for scan in pair)
        weight = intensity_weight(fixed, moving, fixed_inside & moving_inside)
        log.info("intensities have weight %.2f", weight)
        for values, intensity in zip(described, (fixed, moving), strict=True):
            values[number * count - 1] = weight * intensity


def _local_intensities(scan: Scan, pool: int) -> tuple[Tensor, Tensor]:
    """Compute local intensities, and the cubes of the foreground."""
    scan = replace(scan, image=comparable_image(scan))
    foreground = find_foreground(scan)
    inside = functional.avg_pool3d(foreground[None], pool)[0] > 0.5
    return local_intensity(scan.image, foreground, pool=pool), inside


def comparable_image(scan: Scan) -> Tensor:
    """Return what is compared of a scan: clipped, and the nearest known voxel where it is unknown.

    Args:
        scan: Scan on the grid of a registration.

    Returns:
        (X, Y, Z) float32.
    """
    return _fill_unknown(_clip_intensities(scan)).image


def reduce_features(fixed: Tensor, moving: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Project both scans' descriptors onto their joint principal components.

    The components keep as much of the squared differences as that many channels can.

    Args:
        fixed: (C, X, Y, Z) descriptors of the fixed scan.
        moving: (C, X, Y, Z) descriptors of the moving scan.
        channels: Number of components.

    Returns:
        Two tensors (channels, X, Y, Z).
    """
    flat = (fixed.flatten(1), moving.flatten(1))
    voxels = sum(values.shape[1] for values in flat)
    mean = torch.add(*(values.sum(1, dtype=torch.float64) for values in flat)) / voxels
    second_moment = torch.add(*((values @ values.T).double() for values in flat)) / voxels
    axes = torch.linalg.eigh(second_moment - mean[:, None] * mean).eigenvectors[:, -channels:].flip(1).float()
    projected = [axes.T @ values for values in flat]
    return projected[0].view(channels, *fixed.shape[1:]), projected[1].view(channels, *moving.shape[1:])


def _standardized_features(
    scan: Scan, net: FeatureNetwork, config: DescriptorConfig, pool: int, progress: bool
) -> Tensor:
    features = sliding_window_features(
        net,
        scan.image,
        side=fit_window_side(net, config.side),
        overlap=config.overlap,
        clip=scan.clip,
        bf16=config.bf16,
        pool=pool,
        voxelwise=compares_directions(net.config),
        progress=progress,
    )
    inside = functional.avg_pool3d(find_foreground(scan)[None], pool)[0] > 0.5
    std, mean = torch.std_mean(features[:, inside], dim=1)
    shape = (-1, 1, 1, 1)
    return features.sub_(mean.view(shape)).mul_(
        config.feature_weight / std.clamp_min(torch.finfo(std.dtype).tiny).view(shape)
    )


def find_foreground(scan: Scan) -> Tensor:
    """Mark known voxels above the Otsu threshold, (X, Y, Z) in {0, 1}; all known if too few."""
    values = scan.image
    known = torch.ones_like(values) if scan.known is None else scan.known.float()
    bright = known * (values > threshold_otsu(values[known > 0].cpu().numpy()))
    return bright if bright.sum() > _MIN_FOREGROUND * known.sum() else known


def _clip_intensities(scan: Scan) -> Scan:
    return replace(scan, image=scan.image.clamp(*scan.clip)) if scan.clip else scan


def _fill_unknown(scan: Scan) -> Scan:
    """Give unknown voxels the value of the nearest known voxel."""
    if scan.known is None or bool(scan.known.all()):
        return scan
    unknown = (scan.known == 0).cpu().numpy()
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    image = scan.image[tuple(torch.from_numpy(axis).to(scan.image.device) for axis in nearest)]
    return replace(scan, image=image)
