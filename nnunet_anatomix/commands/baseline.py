"""Command ``nnunet-anatomix baseline``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro


def baseline(
    name: Annotated[
        Literal["primgeoseg", "smit", "disruptive_ae", "models_genesis", "medicalnet"], tyro.conf.Positional
    ],
    weights: Annotated[Path, tyro.conf.Positional],
    out: Path | None = None,
) -> None:
    """Describe weights of another network in a JSON file, to start trainings from.

    The file is a start of study --starts, of plan --weights and of reproduce --networks, and gives
    features to register --features. docs/how-to/baselines.md says where the weights are.

    Args:
        name: Network that the paper compares with.
        weights: Downloaded weights file.
        out: JSON file to write. Default: NAME.json next to the weights.
    """
    from nnunet_anatomix.baselines.recipes import write_baseline

    path = write_baseline(name, weights, out)
    logging.getLogger(__name__).info("the weights fit; next: nnunet-anatomix study ... --starts %s", path)
