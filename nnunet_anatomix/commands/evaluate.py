"""Command ``nnunet-anatomix evaluate``."""

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
    """Score segmentations against the truth, or summarize registrations.

    Args:
        kind: Kind of results to score.
        folder: Folder of segmentations, or output folder of register --pairs.
        truth: Folder of true segmentations with the same names; only for segmentation.
        out: Folder for tables and figures. Default: the input folder.
    """
    try_folder(out or folder)
    if kind == "registration":
        from nnunet_anatomix.registration.summary import write_summary

        text = write_summary(folder, out)
    elif truth is None:
        raise UsageError(
            "evaluate segmentation needs two folders: segmentations, and true segmentations with the same names"
        )
    else:
        from nnunet_anatomix.scores.segmentation import evaluate_segmentation

        text = evaluate_segmentation(folder, truth, out=out or folder)
    logging.getLogger(__name__).info("%s\nresults are in %s", text, out or folder)
