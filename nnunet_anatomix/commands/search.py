"""``nnunet-anatomix search``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnunet_anatomix.registration.tuning.grid import SearchGrid

log = logging.getLogger(__name__)


def registration_search(
    pairs: Path,
    out: Path,
    methods: tuple[Literal["mind", "features"], ...] = ("mind", "features"),
    smoothness: tuple[float, ...] = SearchGrid.smoothness,
    grid_spacing: tuple[int, ...] = SearchGrid.grid_spacing,
    reach: tuple[int, ...] = SearchGrid.reach,
    adam_spacing: tuple[int, ...] = SearchGrid.adam_spacing,
    weights: str | None = None,
    trust_code: bool = False,
    statistics: Literal["running", "own"] = "running",
    fixed_clip: tuple[float, float] | None = None,
    moving_clip: tuple[float, float] | None = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Try settings of ConvexAdam on labelled pairs: a table, the best settings, a picture; killed, it goes on.

    Args:
        pairs: CSV file with the header name,fixed,moving,fixed_labels,moving_labels, perhaps
            fixed_mask and moving_mask, and a line a pair; paths are relative to the file. The scans
            of a pair are roughly aligned by their headers already.
        out: Folder for results.csv, summary.md, summary.csv and sweep.png; a later call may add
            settings, pairs and methods.
        methods: mind (MIND-SSC alone), features (with the pretrained network's beside).
        smoothness: Weights λ of the descent's smoothness.
        grid_spacing: Of the search's grid, voxels.
        reach: Greatest displacements of the search, voxels of its grid.
        adam_spacing: Of the descent's grid, voxels.
        weights: Weights file, hf://owner/repo/file@revision, or .json of another network
            (docs/reproduce.md); the bundled ones if left out.
        fixed_clip: Intensities that the network sees as 0 and 1, -450 450 for CT; the least and the
            greatest of a scan if left out.
        moving_clip: The same of the moving scans.
        trust_code: Call the code that a .json names even if it is no torch.nn.Module, or the file
            comes from the hub.
        statistics: What batch normalization uses: the running averages of its training, or each
            scan's own.
        device: auto, cpu or cuda.
    """
    grid = SearchGrid(smoothness=smoothness, grid_spacing=grid_spacing, reach=reach, adam_spacing=adam_spacing)
    # Imports torch, which --help does without.
    from dataclasses import replace

    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from nnunet_anatomix.registration.tuning.pairs import read_search_pairs
    from nnunet_anatomix.registration.tuning.search import METHODS, grid_search
    from pretraining.backbone.external import load_feature_weights
    from pretraining.common.device import has_bf16_units, resolve_device
    from pretraining.common.errors import UsageError
    from pretraining.common.outputs import try_folder

    if not methods:
        raise UsageError("no methods to compare; name mind, features or both")
    found = read_search_pairs(pairs, fixed_clip=fixed_clip, moving_clip=moving_clip)
    try_folder(out)
    runs_on = resolve_device(device)
    net = (
        load_feature_weights(weights, trust_code=trust_code, statistics=statistics).network().to(runs_on)
        if "features" in methods
        else None
    )
    chosen: dict[str, DescriptorConfig] = {
        name: replace(METHODS[name], bf16=has_bf16_units(runs_on)) for name in methods
    }
    table = grid_search(found, out, grid, net=net, methods=chosen, device=runs_on)
    log.info("%s\nall of it is in %s", table, out)
