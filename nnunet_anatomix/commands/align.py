"""``nnunet-anatomix align``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nnunet_anatomix.registration.atlas.scan_list import Window, read_atlas_scans

if TYPE_CHECKING:
    pass

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
    """Bring many scans to one space by affine transforms: an atlas made of them, or a given one; killed, it goes on.

    Args:
        scans: CSV with the column scan and perhaps name, labels (to move along), group (such as the
            modality: the first scan's group makes the atlas, the others are aligned to it) and clip
            (such as -450 450, of that scan); paths are relative to it.
        out: Folder for atlas.nii.gz, alignment.json and, for each scan, NAME_aligned.nii.gz,
            NAME_affine.tfm and NAME_labels.nii.gz.
        atlas: Scan to align all others to, which keeps its grid; left out, an atlas in the mean
            pose is made of the scans.
        rounds: Of aligning and averaging, without a given atlas.
        weights: Weights file or hf://owner/repo/file@revision; the bundled ones if left out; none
            for MIND-SSC alone.
        clip: Intensities that become 0 and 1 in scans without a clip of their own: -450 450 for CT;
            least and greatest if left out.
        atlas_clip: The same of the given atlas.
        spacing: Of the atlas' grid, mm; the first scan's own if left out.
        trust_code: Call the code that a .json names even if it is no torch.nn.Module, or the file
            comes from the hub.
        statistics: What batch normalization uses: the running averages of its training, or each
            scan's own.
        device: auto, cpu or cuda.
    """
    # Imports torch, which --help does without.
    from nnunet_anatomix.registration.atlas.align import align_scans
    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from pretraining.backbone.external import load_feature_weights
    from pretraining.common.device import has_bf16_units, resolve_device
    from pretraining.common.outputs import try_folder

    try_folder(out)
    runs_on = resolve_device(device)
    found = read_atlas_scans(scans, clip)
    features = weights != "none"
    done = align_scans(
        found,
        out,
        atlas=atlas,
        atlas_clip=atlas_clip,
        rounds=rounds,
        spacing_mm=spacing,
        config=DescriptorConfig(bf16=has_bf16_units(runs_on)) if features else DescriptorConfig(feature_weight=0.0),
        weights=load_feature_weights(weights, trust_code=trust_code, statistics=statistics) if features else None,
        device=runs_on,
    )
    log.info("%d alignments computed, %d scans are aligned; all of it is in %s", done, len(found), out)
