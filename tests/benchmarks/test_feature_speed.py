"""Accuracy that cheaper ways to extract features cost.

The reference is the paper's: windows of 128 voxels that overlap by .8 (App. B.4).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.inference import sliding_window_features, whole_volume_features
from pretraining.backbone.unet import UNet
from pretraining.backbone.weights import load_weights
from pretraining.imaging.grids import image_tensor, resample_isotropic

log = logging.getLogger(__name__)
SETTINGS: tuple[dict[str, Any], ...] = (
    {"side": 128, "overlap": 0.8},
    {"side": 128, "overlap": 0.5},
    {"side": 96, "overlap": 0.5},
    {"side": 64, "overlap": 0.5},
    {},
)
"""The first is the reference, the last the whole volume at once. Below 192 voxels, less overlap
than .5 takes the same windows.
"""


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    yield os.cpu_count()
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("scan", "spacing_mm", "clip"),
    [("mni_multimodal/t1", 1.2, None), ("abdomen_ct_mr/ct_full", 2.2, (-450.0, 450.0))],
)
def test_fast_settings_are_close_to_the_papers(data_root, threads, scan, spacing_mm, clip):
    """Finer than the files, so that the paper's windows do not hold the whole scan."""
    net = load_weights(find_weights()).network()
    volume = image_tensor(
        resample_isotropic(
            sitk.ReadImage(str(data_root / "registration" / f"{scan}.nii.gz"), sitk.sitkFloat32), spacing_mm
        )
    )
    shape = "×".join(map(str, volume.shape))
    log.warning(
        "%s, %s voxels, %d threads\n| windows | precision | seconds | relative RMS error |\n| --- | --- | --- | --- |",
        scan,
        shape,
        threads,
    )
    reference, errors, seconds = None, {}, {}
    for bf16 in (False, True):
        for setting in SETTINGS:
            start = time.perf_counter()
            features = _features(net, volume, setting, clip=clip, bf16=bf16)
            duration = time.perf_counter() - start
            reference = features if reference is None else reference
            name = "{side}, overlap {overlap}".format(**setting) if setting else "whole volume"
            error = float((features - reference).square().mean().sqrt() / reference.square().mean().sqrt())
            errors[name, bf16], seconds[name, bf16] = error, duration
            log.warning("| %s | %s | %.1f | %.4f |", name, "bf16" if bf16 else "fp32", duration, error)
    fast = "128, overlap 0.5"
    assert errors[fast, False] < 0.2 and seconds[fast, False] < seconds["128, overlap 0.8", False]
    assert errors["128, overlap 0.8", True] < 0.01


def _features(net: UNet, volume: Tensor, setting: dict[str, Any], **options: Any) -> Tensor:
    return (
        sliding_window_features(net, volume, **setting, **options)
        if setting
        else whole_volume_features(net, volume, **options)
    )
