"""Measure whether descriptors follow the anatomy or the place in the volume.

A scan is moved by whole voxels, and blocks are found again.

``python -m tests.benchmarks.feature_shifts --data ../shared/data`` prints, for MIND-SSC, for the
bundled network's features as registration uses them, and for the same with so wide an empty margin
around the scan that no part of it is near the border of the network's window:

- share: how much of a true displacement of four voxels the minima of the block costs move by;
  1 follows anatomy alone, 0 place alone;
- error: distance of the minima from the true displacement, median over blocks, voxels along one
  axis.

With tests/benchmarks/known_warps.py it says why features guide registration as they do
(docs/results.md).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.descriptors import DescriptorConfig, Scan, describe
from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.weights import load_weights
from pretraining.imaging.grids import image_tensor

SHIFT_VOX, REACH_VOX = 4, 8
BLOCK_VOX, STEP_VOX = 7, 6
AXIS = 1
Describe = Callable[[Tensor], Tensor]


def moved(volume: Tensor, shift_vox: int) -> Tensor:
    """(..., X, Y, Z), what lay at y now lies at y + shift; the border is repeated."""
    length = volume.shape[AXIS - 3]
    return volume.index_select(AXIS - 3, (torch.arange(length) - shift_vox).clamp(0, length - 1))


def found_shifts(fixed: Tensor, moving: Tensor, around_vox: int, blocks: Tensor) -> Tensor:
    """Return where the mean squared difference of each block is least, (number of blocks,).

    In voxels, by a parabola between candidates.
    """
    candidates = torch.arange(around_vox - REACH_VOX, around_vox + REACH_VOX + 1)
    costs = torch.stack(
        [
            functional.avg_pool3d(
                (fixed - moved(moving, -int(shift))).square().sum(0, keepdim=True),
                BLOCK_VOX,
                stride=1,
                padding=BLOCK_VOX // 2,
            )[0][blocks]
            for shift in candidates
        ]
    )
    best = costs.argmin(0).clamp(1, len(candidates) - 2)
    before, at, after = (costs.gather(0, (best + step)[None])[0] for step in (-1, 0, 1))
    curvature = (before - 2 * at + after).clamp_min(torch.finfo(at.dtype).tiny)
    return candidates[best] + (0.5 * (before - after) / curvature).clamp(-1, 1)


def block_centres(volume: Tensor) -> Tensor:
    """Return (X, Y, Z) bool: centres of blocks in the head, with all candidates in the volume."""
    head = ndimage.binary_fill_holes(ndimage.binary_closing((volume > volume.mean()).numpy(), iterations=2))
    chosen = torch.zeros_like(volume, dtype=torch.bool)
    chosen[8:-8:STEP_VOX, 12:-12:STEP_VOX, 8:-8:STEP_VOX] = True
    return chosen & torch.from_numpy(head)


def with_margin(describe: Describe, margin_vox: int) -> Describe:
    """The same descriptors of the scan inside an empty frame, cut out again."""
    inside = (slice(None), *(slice(margin_vox, -margin_vox),) * 3)
    return lambda volume: describe(functional.pad(volume, (margin_vox,) * 6, value=float(volume.min())))[inside]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder = parser.parse_args().data / "registration" / "mni_multimodal"
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    t1, t2, ct = (image_tensor(sitk.ReadImage(str(folder / f"{name}.nii.gz"))).float() for name in ("t1", "t2", "ct"))
    net = load_weights(find_weights()).network()
    blocks = block_centres(t1)

    def describe_with(config: DescriptorConfig) -> Describe:
        return lambda volume: describe(Scan(image=volume), config, pool=1, net=net)

    features = DescriptorConfig(mind=False, feature_weight=1.0)
    ways = {
        "MIND-SSC": describe_with(DescriptorConfig(feature_weight=0)),
        "features": describe_with(features),
        # One window of 208 voxels; the head fills its middle.
        "features, margin of 48": with_margin(
            describe_with(DescriptorConfig(mind=False, feature_weight=1.0, side=208)), 48
        ),
    }
    logging.info(
        "| descriptor | share, T1 on T1 | share, T1 on T2 | error, T1 on T2 | error, T1 on CT |\n|---|---|---|---|---|"
    )
    for name, describe_volume in ways.items():
        fixed = describe_volume(t1)
        same = found_shifts(fixed, describe_volume(moved(t1, SHIFT_VOX)), SHIFT_VOX, blocks)
        still = found_shifts(fixed, describe_volume(t2), 0, blocks)
        other = found_shifts(fixed, describe_volume(moved(t2, SHIFT_VOX)), SHIFT_VOX, blocks)
        far = found_shifts(fixed, describe_volume(moved(ct, SHIFT_VOX)), SHIFT_VOX, blocks)
        shares = (same.mean() / SHIFT_VOX, (other - still).mean() / SHIFT_VOX)
        errors = ((found - SHIFT_VOX).abs().median() for found in (other, far))
        logging.info("| %s | %.2f | %.2f | %.2f | %.2f |", name, *shares, *errors)


if __name__ == "__main__":
    main()
