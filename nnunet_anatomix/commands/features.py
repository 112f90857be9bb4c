"""Command ``nnunet-anatomix features``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.common.rare_flags import Rare

log = logging.getLogger(__name__)


def features(
    image: Annotated[Path, tyro.conf.Positional],
    out: Path,
    weights: str | None = None,
    clip: tuple[float, float] | None = None,
    spacing: float | None = None,
    side: Rare[int] = 128,
    overlap: float = 0.5,
    whole: Rare[bool] = False,
    precision: Rare[Literal["auto", "fp32", "bf16"]] = "auto",
    memory: str = "auto",
    picture: bool = True,
    trust_code: Rare[bool] = False,
    statistics: Rare[Literal["running", "own"]] = "running",
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Write the pretrained network's features of a scan, and a figure of them.

    Args:
        image: Scan with three axes, in any format that ITK reads.
        out: File to write: .nii.gz, .nii, .nrrd or .mha of vectors, or .b2nd with (C, Z, Y, X).
        weights: Weights file, hf:// address, or .json of another network. Default: bundled weights.
        clip: Intensities scaled to 0 and 1, -450 450 for CT. Default: the scan's extremes.
        spacing: Side of cubic voxels to resample to before, mm. Default: the scan's own grid.
        side: Side of the windows, voxels; other values change the features.
        overlap: Overlap of neighbouring windows; 0.8 as in the paper takes 2 to 15 times as long.
        whole: Process the whole volume at once: faster, but gives other features than windows.
        precision: Floating-point format: fp32, bf16, or auto (bf16 if that is faster).
        memory: Memory limit, such as 4G. Default: most of the free memory.
        picture: Draw slices of scan and features next to the file.
        trust_code: Permission to run any code that a .json names, even a .json from the hub.
        statistics: Statistics of batch normalization: those of its training, or each scan's own.
        device: Device that runs the network.
    """
    # Imports torch, which --help does not need.
    from nnunet_anatomix.features.extract import extract_features
    from nnunet_anatomix.features.files import feature_ending, write_features
    from nnunet_anatomix.features.pictures import draw_features
    from pretraining.backbone.external_weights import load_feature_weights
    from pretraining.common.byte_sizes import parse_bytes
    from pretraining.common.device import resolve_device
    from pretraining.common.outputs import try_file
    from pretraining.imaging.grids import resample_isotropic
    from pretraining.imaging.limits import check_spacing, check_window
    from pretraining.imaging.scans import read_image, validate_scan

    ending = feature_ending(out)
    check_spacing(spacing)
    check_window(clip)
    try_file(out)
    limit = None if memory == "auto" else parse_bytes(memory)
    resolved_device = resolve_device(device)
    loaded = load_feature_weights(weights, trust_code=trust_code, statistics=statistics)
    scan = validate_scan(read_image(image, "image"), "image")
    if spacing is not None:
        scan = resample_isotropic(scan, spacing)
    extracted = extract_features(
        scan,
        loaded,
        clip=clip,
        side=side,
        overlap=overlap,
        whole=whole,
        bf16=None if precision == "auto" else precision == "bf16",
        memory=limit,
        device=resolved_device,
        progress=True,
    )
    write_features(out, extracted, scan)
    log.info("%d channels of %s voxels are in %s", len(extracted), "×".join(map(str, extracted.shape[1:])), out)
    if picture:
        png = out.with_name(f"{out.name[: -len(ending)]}.png")
        draw_features(png, scan, extracted, clip=clip)
        log.info("the figure is %s", png)
