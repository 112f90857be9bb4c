"""Features of a scan: read its geometry, scale it, run the pretrained network over it (App. B.4)."""

from __future__ import annotations

import logging

import SimpleITK as sitk
import torch
from torch import Tensor

from pretraining.backbone.external import fit_window_side
from pretraining.backbone.feature_network import FeatureWeights
from pretraining.backbone.inference import (
    Clip,
    padded_shape,
    rescale_intensity,
    sliding_window_features,
    whole_volume_features,
)
from pretraining.backbone.inference_memory import LARGEST_SIDE, available_bytes, peak_bytes, window_for
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.device import has_bf16_units
from pretraining.common.errors import InputError
from pretraining.common.finite import require_finite
from pretraining.imaging.grids import image_tensor
from pretraining.imaging.scans import validate_scan

log = logging.getLogger(__name__)

OVERLAP = 0.5
"""Of neighbouring windows; .8 in the paper (``tests/benchmarks/test_feature_speed.py`` has errors
and times of both).
"""
_ANISOTROPIC = 3.0
"""Ratio of spacings above which the network sees anatomy as it never did in pretraining."""


def extract_features(
    image: sitk.Image,
    weights: FeatureWeights,
    *,
    clip: Clip | None = None,
    side: int = LARGEST_SIDE,
    overlap: float = OVERLAP,
    whole: bool = False,
    bf16: bool | None = None,
    memory: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Tensor:
    """Features of a scan on its own grid.

    Args:
        image: Three axes, one channel, any orientation and spacing; for thick slices see
            :func:`~pretraining.imaging.grids.resample_isotropic`.
        weights: Of the network, or another one; ours with plain instance norm get voxelwise
            normalization, as the published 94M network wants.
        clip: Intensities that the network sees as 0 and 1; left out, the least and the greatest of
            the scan.
        side: Of the windows, voxels; smaller ones are taken, and said so, where these do not fit
            into memory.
        overlap: Of neighbouring windows, share of their side, in [0, 1).
        whole: Take the whole scan at once in place of windows.
        bf16: Whether the network computes in bfloat16; left out, where ``device`` gains from it.
        memory: Bytes that may be used on ``device``; left out, most of what is free there.
        device: Where the network runs.
        progress: Whether to show a progress bar.

    Returns:
        (C, X, Y, Z) float32 on the CPU, axes as in :func:`~pretraining.imaging.grids.image_tensor`.

    Raises:
        InputError: For an image that is no scan, a clip window outside its intensities, or too
            little memory.
        NotFinite: If the network computes NaN or infinity.

    Notes:
        Features depend on what the network sees around a voxel, hence on the size of windows, far
        more than on overlap or precision. Against the paper's windows of 128 voxels and overlap .8,
        on a head of 152×182×152 voxels, the relative RMS error is .11 for overlap .5, .39 for
        windows of 96 voxels, .61 for 64, .41 for the whole volume at once, and .003 for bfloat16.
        So two scans to be compared want the same windows, and it is only for want of memory that
        they are changed unasked, and not without a warning.
    """
    device = torch.device(device)
    volume = image_tensor(validate_scan(image, "image"))
    _check_clip(volume, clip)
    if weights.architecture.in_channels != 1:
        raise InputError(
            f"expected weights of a network with one input channel, found {weights.architecture.in_channels}"
        )
    if max(image.GetSpacing()) > _ANISOTROPIC * min(image.GetSpacing()):
        spacing = "×".join(f"{side_mm:.3g}" for side_mm in image.GetSpacing())
        log.info(
            "voxels of %s mm are far from cubes, which the network was pretrained on; --spacing resamples to such",
            spacing,
        )
    net = weights.network().to(device)
    architecture = weights.architecture
    side = fit_window_side(net, side)
    bf16 = has_bf16_units(device) if bf16 is None else bf16
    spare = _spare_bytes(net.config.out_channels * volume.numel() * volume.element_size(), memory, device)
    fitting = window_for(net, volume.shape, spare, bf16)
    voxelwise = architecture.norm == "instance" and not getattr(architecture, "norm_affine", False)
    if whole:
        if fitting is not None:
            needed = peak_bytes(net, padded_shape(net, volume.shape), bf16)
            raise InputError(
                f"the whole volume at once needs {format_bytes(needed)}B of memory, but there is {format_bytes(spare)}B; use windows"
            )
        return _finite(whole_volume_features(net, volume, clip=clip, bf16=bf16, voxelwise=voxelwise))
    if fitting is not None and fitting < side:
        log.warning(
            "windows of %d voxels do not fit into %sB of memory; taking %d, whose features differ from theirs",
            side,
            format_bytes(spare),
            fitting,
        )
        side = fitting
    return _finite(
        sliding_window_features(
            net, volume, side=side, overlap=overlap, clip=clip, bf16=bf16, voxelwise=voxelwise, progress=progress
        )
    )


def _finite(features: Tensor) -> Tensor:
    require_finite(features, "features")
    return features


def _check_clip(volume: Tensor, clip: Clip | None) -> None:
    scaled = rescale_intensity(volume, clip)
    if scaled.min() == scaled.max():
        low, high = float(volume.min()), float(volume.max())
        raise InputError(
            f"the clip window {clip} leaves a constant image of intensities {low:g} to {high:g}; name one that overlaps them"
        )


def _spare_bytes(result: int, memory: int | None, device: torch.device) -> int:
    """What is left for the network once the ``result`` has its place on the CPU."""
    cpu = torch.device("cpu")
    limit = available_bytes(device) if memory is None else memory
    host = limit if device == cpu else available_bytes(cpu)
    if result >= host:
        raise InputError(
            f"features of this volume take {format_bytes(result)}B, but there is {format_bytes(host)}B; name a coarser spacing"
        )
    return limit - result if device == cpu else limit
