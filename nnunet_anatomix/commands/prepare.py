"""``nnunet-anatomix prepare``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.common.errors import InputError

log = logging.getLogger(__name__)

_RAW = "nnUNet_raw"
"""Environment variable of nnU-Net for the folder of raw datasets."""

Name = Literal["msd-heart", "promise12", "l2r-abdomen", "feta", "amos-ct", "neurite-oasis", "mm-whs"]


def prepare(
    name: Annotated[Name, tyro.conf.Positional],
    source: Path,
    out: Path | None = None,
    shots: int | None = None,
    partial: bool = False,
    weights: str | None = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Convert a download of one of the paper's datasets for nnU-Net, or to pairs.

    Layouts, checks and splits are in docs/reproduce.md. The download is not changed. If
    interrupted, run the same command again to resume.

    Args:
        name: Dataset; l2r-abdomen gives a dataset and pairs, mm-whs only pairs.
        source: Folder of the unpacked download.
        out: Folder nnUNet_raw. Default: the environment variable nnUNet_raw.
        shots: Training volumes of fold 0. Default: as in the paper (amos-ct: 3).
        partial: Accept an incomplete download, and split it in the paper's proportions.
        weights: Weights for aligning mm-whs, or none (MIND-SSC). Default: the bundled weights.
        device: Device for aligning mm-whs: auto, cpu or cuda.
    """
    # Import SimpleITK here, which --help does not need.
    from nnunet_anatomix.datasets import l2r_abdomen, mm_whs
    from nnunet_anatomix.datasets.catalog import SEGMENTATION

    if not source.is_dir():
        raise InputError(f"--source: expected the folder of a download, found none at {source}")
    if out is None and not os.environ.get(_RAW):
        raise InputError(f"expected the folder of nnU-Net's raw datasets, found none; use --out, or set {_RAW}")
    out = out or Path(os.environ[_RAW])
    if name == "mm-whs":
        folder = mm_whs.prepare_pairs(source, out, partial=partial, weights=weights, device=device)
        log.info("pairs are in %s; next: nnunet-anatomix reproduce figure5 --data %s --out OUT", folder, out)
        return
    folder = SEGMENTATION[name].prepare(source, out, shots=shots, partial=partial)
    if name == "l2r-abdomen":
        log.info("pairs are in %s", l2r_abdomen.prepare_pairs(source, out, partial=partial))
    log.info("next: nnunet-anatomix reproduce table1 --data %s --out OUT, or study -d %s --out OUT", out, folder.name)
