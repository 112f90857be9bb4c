"""``nnunet-anatomix search``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnunet_anatomix.registration.tuning.grid import SearchGrid
from pretraining.common.rare_flags import Rare

log = logging.getLogger(__name__)


def registration_search(
    pairs: Path,
    out: Path,
    methods: tuple[Literal["mind", "features"], ...] = ("mind", "features"),
    smoothness: tuple[float, ...] = SearchGrid.smoothness,
    grid_spacing: tuple[int, ...] = SearchGrid.grid_spacing,
    reach: tuple[int, ...] = SearchGrid.reach,
    adam_spacing: Rare[tuple[int, ...]] = SearchGrid.adam_spacing,
    iterations: Rare[tuple[int, ...] | None] = None,
    regularization: Rare[Literal["bending", "diffusion"]] = "bending",
    unfold: Rare[bool] = True,
    weights: str | None = None,
    trust_code: Rare[bool] = False,
    statistics: Rare[Literal["running", "own"]] = "running",
    fixed_clip: tuple[float, float] | None = None,
    moving_clip: tuple[float, float] | None = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Search the best settings of the registration on labelled pairs.

    Scans of a pair must be roughly aligned by their headers. If interrupted, run the same command
    again to resume.

    Args:
        pairs: CSV with columns fixed,moving,fixed_labels,moving_labels, optional name and masks.
        out: Folder for results.csv, summary.md, summary.csv and sweep.png, which can be extended.
        methods: Methods: mind (MIND-SSC alone), features (MIND-SSC and the pretrained network).
        smoothness: Weights λ of the descent's regularization.
        grid_spacing: Spacings of the search's grid, voxels.
        reach: Greatest displacements of the search, voxels of its grid.
        adam_spacing: Spacings of the descent's finest grid, voxels.
        iterations: Iterations of each level of the descent; published: 80. Default: as register.
        regularization: Penalty: bending energy plus diffusion; published: diffusion alone.
        unfold: Smooth each displacement where it folds, until it does not; published: not.
        weights: Weights, hf://owner/repo/file@revision or .json of a network. Default: bundled.
        fixed_clip: Intensities of fixed scans, -450 450 for CT. Default: minimum and maximum.
        moving_clip: Intensities of moving scans. Default: minimum and maximum.
        trust_code: Run code that a .json names even if not a torch.nn.Module, or from the hub.
        statistics: Statistics of batch normalization: running averages, or those of each scan.
        device: Device: auto, cpu or cuda.
    """
    grid = SearchGrid(smoothness=smoothness, grid_spacing=grid_spacing, reach=reach, adam_spacing=adam_spacing)
    # Import torch here, which --help does not need.
    from dataclasses import replace

    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
    from nnunet_anatomix.registration.tuning.pairs import read_search_pairs
    from nnunet_anatomix.registration.tuning.search import METHODS, grid_search
    from pretraining.backbone.external_weights import load_feature_weights
    from pretraining.common.device import has_bf16_units, resolve_device
    from pretraining.common.errors import UsageError
    from pretraining.common.outputs import try_folder

    if not methods:
        raise UsageError("--methods: expected mind, features or both, found none")
    search_pairs = read_search_pairs(pairs, fixed_clip=fixed_clip, moving_clip=moving_clip)
    try_folder(out)
    resolved = resolve_device(device)
    net = (
        load_feature_weights(weights, trust_code=trust_code, statistics=statistics).network().to(resolved)
        if "features" in methods
        else None
    )
    configs: dict[str, DescriptorConfig] = {
        name: replace(METHODS[name], bf16=has_bf16_units(resolved)) for name in methods
    }
    solver = ConvexAdamConfig(
        iterations=ConvexAdamConfig.iterations if iterations is None else iterations,
        regularization=regularization,
        unfold=unfold,
    )
    table = grid_search(search_pairs, out, grid, net=net, methods=configs, solver=solver, device=resolved)
    log.info("%s\nresults are in %s", table, out)
