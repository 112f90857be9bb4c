"""``nnunet-anatomix register``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

log = logging.getLogger(__name__)

Window = tuple[float, float] | None


def register(
    out: Path,
    fixed: Path | None = None,
    moving: Path | None = None,
    pairs: Path | None = None,
    solver: Literal["convexadam", "ants"] = "convexadam",
    features: str | None = None,
    mind: bool = True,
    feature_weight: float | None = None,
    init: str = "auto",
    affine: Literal["none", "rigid", "affine"] | None = None,
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    fixed_labels: Path | None = None,
    moving_labels: Path | None = None,
    fixed_landmarks: Path | None = None,
    moving_landmarks: Path | None = None,
    fixed_clip: Window = None,
    moving_clip: Window = None,
    spacing: float | None = None,
    smoothness: float | None = None,
    grid_spacing: int | None = None,
    reach: int | None = None,
    adam_spacing: int | None = None,
    overlap: float | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    memory: str = "auto",
    trust_code: bool = False,
    statistics: Literal["running", "own"] = "running",
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Align a moving scan with a fixed one, of any modalities, grids and orientations; or many pairs from a CSV.

    Args:
        out: Folder for moved scan and labels, transforms, picture and registration.json; with
            --pairs one folder a pair below it.
        fixed: Scan to align with, in any format of ITK's.
        moving: Scan to align.
        pairs: CSV with the columns fixed, moving and perhaps name, fixed_mask, moving_mask,
            fixed_labels, moving_labels, fixed_landmarks, moving_landmarks, init; paths are relative
            to it. Pairs already there are not registered again.
        solver: convexadam, or ants: SyN of antspyx, on features, or on mutual information with
            --features none.
        features: Weights file, hf://owner/repo/file@revision, or .json of another network
            (docs/reproduce.md); bundled ones if left out; none for MIND-SSC or mutual information
            alone.
        mind: Compare MIND-SSC too; --no-mind for features alone.
        feature_weight: Factor of the features beside MIND-SSC.
        init: auto judges several starts by descriptors, none trusts the headers, else a transform's
            file (.mat, .tfm, .h5, or a displacement field).
        affine: What the start may do first; affine with --init auto, none otherwise.
        fixed_mask: What of the fixed scan counts.
        moving_mask: What of the moving scan counts.
        fixed_labels: Structures to measure with.
        moving_labels: Structures to measure with, and to move.
        fixed_landmarks: CSV with x,y,z in mm (LPS), or .fcsv of Slicer.
        moving_landmarks: As many, in the same order.
        fixed_clip: Intensities beyond which the scan is cut before it is compared: -450 450 for CT.
        moving_clip: The same of the moving scan.
        spacing: Of the working grid, mm; the fixed scan's own if left out.
        smoothness: Weight of the displacement's smoothness.
        grid_spacing: Of the coarse search, voxels.
        reach: Of the coarse search, voxels of its grid.
        adam_spacing: Of the fine descent, voxels.
        overlap: Of the network's windows, share of their side.
        precision: fp32, bf16, or auto: bf16 where that is faster.
        memory: What may be used above PyTorch itself, such as 4G; most of what is free by default.
        trust_code: Call the code that a .json names even if it is no torch.nn.Module, or the file
            comes from the hub.
        statistics: What batch normalization uses: the running averages of its training, or each
            scan's own.
        device: auto, cpu or cuda.
    """
    from nnunet_anatomix.registration.batch import Common, PairFiles, read_pairs, register_pair, register_pairs
    from nnunet_anatomix.registration.config import RegistrationConfig
    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
    from pretraining.backbone.external import load_feature_weights
    from pretraining.common.byte_sizes import parse_bytes
    from pretraining.common.device import has_bf16_units, resolve_device
    from pretraining.common.errors import UsageError
    from pretraining.common.lock import hold_lock
    from pretraining.common.outputs import try_folder

    for_one_pair = {
        "fixed_mask": fixed_mask,
        "moving_mask": moving_mask,
        "fixed_labels": fixed_labels,
        "moving_labels": moving_labels,
        "fixed_landmarks": fixed_landmarks,
        "moving_landmarks": moving_landmarks,
    }
    if pairs is not None and (fixed or moving or any(for_one_pair.values())):
        raise UsageError("with --pairs, scans, masks, labels and landmarks stand in the CSV; leave their flags out")
    given: Path | PairFiles
    if pairs is not None:
        given = pairs
    elif fixed is None or moving is None:
        raise UsageError("name the scans with --fixed and --moving, or many of them with --pairs CSV")
    else:
        given = PairFiles(name=out.resolve().name, fixed=fixed, moving=moving, **for_one_pair)
    if features == "none" and not mind and solver == "convexadam":
        raise UsageError("--features none with --no-mind leaves nothing to compare")
    try_folder(out)
    runs_on = resolve_device(device)
    weight = 0.0 if features == "none" else feature_weight
    described = DescriptorConfig(
        mind=mind or features == "none",
        bf16=has_bf16_units(runs_on) if precision == "auto" else precision == "bf16",
        overlap=DescriptorConfig.overlap if overlap is None else overlap,
        feature_weight=DescriptorConfig.feature_weight if weight is None else weight,
    )
    solver_config = ConvexAdamConfig(
        smoothness=ConvexAdamConfig.smoothness if smoothness is None else smoothness,
        grid_spacing=ConvexAdamConfig.grid_spacing if grid_spacing is None else grid_spacing,
        reach=ConvexAdamConfig.reach if reach is None else reach,
        adam_spacing=ConvexAdamConfig.adam_spacing if adam_spacing is None else adam_spacing,
    )
    config = RegistrationConfig(
        solver=solver,
        init=init,
        affine=affine,
        spacing_mm=spacing,
        descriptors=described,
        convexadam=solver_config,
    )
    common = Common(
        config=config,
        weights=load_feature_weights(features, trust_code=trust_code, statistics=statistics)
        if described.feature_weight
        else None,
        fixed_clip=fixed_clip,
        moving_clip=moving_clip,
        memory=None if memory == "auto" else parse_bytes(memory),
        device=runs_on,
    )
    if isinstance(given, Path):
        done = register_pairs(read_pairs(given), out, common)
        log.info("%d pairs registered; nnunet-anatomix evaluate registration %s sums them up", done, out)
        return
    with hold_lock(out):
        metrics = register_pair(given, out, common)
    for name in ("dice_before", "dice"):
        if values := metrics.get(name):
            log.info(
                "%s: %.3f, mean of %d labels", name.replace("_", " "), sum(values.values()) / len(values), len(values)
            )
    log.info(
        "folds: %.2f %%; all of it is in %s, to look at: %s", 100 * metrics["folded_share"], out, out / "overview.png"
    )
