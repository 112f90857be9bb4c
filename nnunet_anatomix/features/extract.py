"""Extraction of a scan's features with the pretrained network (App. B.4)."""

from __future__ import annotations

import logging

import SimpleITK as sitk
import torch
from torch import Tensor

from pretraining.backbone.external import fit_window_side
from pretraining.backbone.feature_network import FeatureWeights, compares_directions
from pretraining.backbone.inference import (
    Clip,
    padded_shape,
    sliding_window_features,
    whole_volume_features,
)
from pretraining.backbone.inference_memory import LARGEST_SIDE, available_bytes, peak_bytes, window_for
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.device import has_bf16_units
from pretraining.common.errors import InputError
from pretraining.common.finite import require_finite
from pretraining.imaging.contrast import check_contrast
from pretraining.imaging.grids import image_tensor
from pretraining.imaging.scans import validate_scan

log = logging.getLogger(__name__)

OVERLAP = 0.5
"""Overlap of neighbouring windows, share of their side; 0.8 in the paper.

``tests/benchmarks/test_feature_speed.py`` measures errors and times of both.
"""
_ANISOTROPIC = 3.0
"""Ratio of spacings above which anatomy looks different from that of pretraining."""


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
    """Compute the features of a scan on its own grid.

    Args:
        image: Scan with three axes and one channel, in any orientation and spacing; for thick
            slices see :func:`~pretraining.imaging.grids.resample_isotropic`.
        weights: Weights of our network or of another one. Features of ours with plain instance
            norm are normalized voxelwise, as the published 94M network requires.
        clip: Intensities that are scaled to 0 and 1. Default: minimum and maximum of the scan.
        side: Side of the windows, voxels; reduced with a warning if they do not fit into memory.
        overlap: Overlap of neighbouring windows, share of their side, in [0, 1).
        whole: Process the whole scan at once instead of windows.
        bf16: Compute in bfloat16. Default: if ``device`` is faster with it.
        memory: Memory limit on ``device``, bytes. Default: most of the free memory.
        device: Device of the network.
        progress: Show a progress bar.

    Returns:
        (C, X, Y, Z) float32 on the CPU, axes as in :func:`~pretraining.imaging.grids.image_tensor`.

    Raises:
        InputError: If the image is not a scan, the clip window does not overlap its intensities, or
            memory is too small.
        NotFinite: If the network computes NaN or infinity.

    Notes:
        Features depend on the context of a voxel, and thus on the size of the windows, far more
        than on overlap or precision. Compared with the paper's windows of 128 voxels and overlap
        0.8, on a head of 152×182×152 voxels, the relative RMS error is 0.11 for overlap 0.5, 0.39
        for windows of 96 voxels, 0.61 for 64, 0.41 for the whole volume at once, and 0.003 for
        bfloat16. Use the same windows for all scans to compare.
    """
    device = torch.device(device)
    image = validate_scan(image, "image")
    check_contrast(image, clip, "clip")
    volume = image_tensor(image)
    if weights.architecture.in_channels != 1:
        raise InputError(
            f"expected weights of a network with one input channel, found {weights.architecture.in_channels}"
        )
    if max(image.GetSpacing()) > _ANISOTROPIC * min(image.GetSpacing()):
        spacing = "×".join(f"{side_mm:.3g}" for side_mm in image.GetSpacing())
        log.info(
            "voxels of %s mm are far from the cubes of pretraining; use --spacing to resample to cubic voxels",
            spacing,
        )
    net = weights.network().to(device)
    architecture = weights.architecture
    side = fit_window_side(net, side)
    bf16 = has_bf16_units(device) if bf16 is None else bf16
    spare = _spare_bytes(net.config.out_channels * volume.numel() * volume.element_size(), memory, device)
    fitting = window_for(net, volume.shape, spare, bf16)
    voxelwise = compares_directions(architecture)
    if whole:
        if fitting is not None:
            needed = peak_bytes(net, padded_shape(net, volume.shape), bf16)
            raise InputError(
                f"the whole volume at once needs {format_bytes(needed)}B of memory, but {format_bytes(spare)}B are "
                "available; use windows"
            )
        return _require_finite(whole_volume_features(net, volume, clip=clip, bf16=bf16, voxelwise=voxelwise))
    if fitting is not None and fitting < side:
        log.warning(
            "windows of %d voxels do not fit into %sB of memory; using %d voxels, which changes the features",
            side,
            format_bytes(spare),
            fitting,
        )
        side = fitting
    return _require_finite(
        sliding_window_features(
            net, volume, side=side, overlap=overlap, clip=clip, bf16=bf16, voxelwise=voxelwise, progress=progress
        )
    )


def _require_finite(features: Tensor) -> Tensor:
    require_finite(features, "features")
    return features


def _spare_bytes(result: int, memory: int | None, device: torch.device) -> int:
    """Return the memory for the network, after the ``result`` is allocated on the CPU, bytes."""
    cpu = torch.device("cpu")
    limit = available_bytes(device) if memory is None else memory
    host = limit if device == cpu else available_bytes(cpu)
    if result >= host:
        raise InputError(
            f"features of this volume need {format_bytes(result)}B, but {format_bytes(host)}B are available; "
            "use a coarser spacing"
        )
    return limit - result if device == cpu else limit
