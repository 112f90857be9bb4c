"""Arguments that the modules of this folder share, which run programs that have only a library."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

FIELD = "field.nii.gz"
"""File that each module writes into the output folder: a displacement field, mm, LPS."""


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """Files of a pair on one grid.

    Attributes:
        fixed, moving: Images in [0, 1].
        fixed_mask, moving_mask: Masks, above 0 where an image counts.
        out: Folder for the transform.
    """

    fixed: Path
    moving: Path
    fixed_mask: Path
    moving_mask: Path
    out: Path


def parse_files(program: str, package: str, distribution: str) -> PairFiles:
    """Read the command line; end with one line if the program is not installed.

    Args:
        program: Name of the program, for messages.
        package: Python package that must exist.
        distribution: Name of the package for pip.

    Returns:
        The files.
    """
    parser = ArgumentParser(description=f"Register two images with {program}.")
    for name in ("fixed", "moving", "fixed_mask", "moving_mask", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    if find_spec(package) is None:
        sys.exit(f"{program} needs the package {distribution}, which is not installed; run: pip install {distribution}")
    return PairFiles(**vars(arguments))
