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
"""The variable by which nnU-Net finds raw datasets."""

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
    """Turn your download of one of the paper's datasets into nnU-Net's format, or into pairs to register; killed, it goes on.

    Expected folders, checks and splits are in docs/reproduce.md. Nothing is written into the
    download.

    Args:
        name: The dataset; l2r-abdomen gives MRI to segment and pairs to register, mm-whs pairs
            alone.
        source: Folder of the download, unpacked, in the dataset's own layout.
        out: nnUNet_raw, where the prepared folder goes; by default what the variable nnUNet_raw
            says.
        shots: Training volumes of fold 0; the paper's if left out (amos-ct: 3, or 1 as in Table 8).
        partial: Take what there is of a dataset, shared out in the paper's proportions.
        weights: For mm-whs, of the alignment; none for MIND-SSC alone.
        device: For mm-whs, of the alignment.
    """
    # Import SimpleITK, which --help does without.
    from nnunet_anatomix.datasets import l2r_abdomen, mm_whs
    from nnunet_anatomix.datasets.catalog import SEGMENTATION

    if not source.is_dir():
        raise InputError(f"--source: expected the folder of a download, found none at {source}")
    if out is None and not os.environ.get(_RAW):
        raise InputError(f"name --out, or set {_RAW}: the folder that holds nnU-Net's datasets")
    out = out or Path(os.environ[_RAW])
    if name == "mm-whs":
        folder = mm_whs.prepare_pairs(source, out, partial=partial, weights=weights, device=device)
        log.info("pairs are in %s; next: nnunet-anatomix reproduce figure5 --data %s --out OUT", folder, out)
        return
    folder = SEGMENTATION[name].prepare(source, out, shots=shots, partial=partial)
    if name == "l2r-abdomen":
        log.info("pairs are in %s", l2r_abdomen.prepare_pairs(source, out, partial=partial))
    log.info("next: nnunet-anatomix reproduce table1 --data %s --out OUT, or study -d %s --out OUT", out, folder.name)
