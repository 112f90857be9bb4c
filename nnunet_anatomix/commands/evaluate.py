"""``nnunet-anatomix evaluate``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.common.errors import UsageError
from pretraining.common.outputs import try_folder


def evaluate(
    kind: Annotated[Literal["segmentation", "registration"], tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    truth: Annotated[Path | None, tyro.conf.Positional] = None,
    out: Path | None = None,
) -> None:
    """Score a folder of segmentations against true ones, or sum up a folder of registrations.

    Args:
        kind: segmentation or registration.
        folder: Segmentations; or what register wrote with --pairs, one folder a pair.
        truth: True segmentations of the same names; for segmentations only.
        out: Folder for tables and pictures; by default the folder itself.
    """
    try_folder(out or folder)
    if kind == "registration":
        from nnunet_anatomix.registration.summary import write_summary

        text = write_summary(folder, out)
    elif truth is None:
        raise UsageError("evaluate segmentation needs two folders: segmentations, and true ones of the same names")
    else:
        from nnunet_anatomix.scores.segmentation import evaluate_segmentation

        text = evaluate_segmentation(folder, truth, out=out or folder)
    logging.getLogger(__name__).info("%s\nall of it is in %s", text, out or folder)
