"""``nnunet-anatomix align``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnunet_anatomix.registration.atlas.scan_list import Window, read_atlas_scans

log = logging.getLogger(__name__)


def align(
    scans: Path,
    out: Path,
    atlas: Path | None = None,
    rounds: int = 2,
    weights: str | None = None,
    clip: Window = None,
    atlas_clip: Window = None,
    spacing: float | None = None,
    trust_code: bool = False,
    statistics: Literal["running", "own"] = "running",
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Align scans to an atlas, or to their unbiased mean, by affine transforms.

    The list of scans is a CSV with the column scan and optionally name, labels, group (such as the
    modality) and clip (such as -450 450). The group of the first scan makes the atlas, other groups
    are aligned to it. If interrupted, run the same command again to resume.

    Args:
        scans: CSV list of the scans; paths are relative to it.
        out: Folder for the atlas and, for each scan, transform, aligned scan and labels.
        atlas: Scan to align all others to. Default: an atlas computed from the scans.
        rounds: Rounds of alignment and averaging, without a given atlas.
        weights: Weights, hf://owner/repo/file@revision, or none (MIND-SSC). Default: bundled.
        clip: Intensities of scans without their own clip. Default: minimum and maximum.
        atlas_clip: Intensities of the given atlas. Default: minimum and maximum.
        spacing: Spacing of the atlas' grid, mm. Default: that of the first scan.
        trust_code: Run code that a .json names even if not a torch.nn.Module, or from the hub.
        statistics: Statistics of batch normalization: running averages, or those of each scan.
        device: Device: auto, cpu or cuda.
    """
    # Import torch here, which --help does not need.
    from nnunet_anatomix.registration.atlas.align import align_scans
    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from pretraining.backbone.external_weights import load_feature_weights
    from pretraining.common.device import has_bf16_units, resolve_device
    from pretraining.common.outputs import try_folder

    try_folder(out)
    resolved = resolve_device(device)
    atlas_scans = read_atlas_scans(scans, clip)
    features = weights != "none"
    done = align_scans(
        atlas_scans,
        out,
        atlas=atlas,
        atlas_clip=atlas_clip,
        rounds=rounds,
        spacing_mm=spacing,
        config=DescriptorConfig(bf16=has_bf16_units(resolved)) if features else DescriptorConfig(feature_weight=0.0),
        weights=load_feature_weights(weights, trust_code=trust_code, statistics=statistics) if features else None,
        device=resolved,
    )
    log.info("%d alignments computed, %d scans are aligned; results are in %s", done, len(atlas_scans), out)
