"""What is not used for a template bank, and why."""

from __future__ import annotations

from typing import NamedTuple

from pretraining.imaging.rejection import Rejected as Rejected
from pretraining.imaging.rejection import RejectionKind as Kind
from pretraining.imaging.rejection import unreadable as unreadable


class Rejection(NamedTuple):
    """One line of the report."""

    what: str
    """File, or subject and organ."""
    why: str
    kind: Kind = "unusable"


def too_small(what: str, count: int, spacing_mm: float, min_voxels: int) -> Rejection:
    """A mask of which resampling left too little."""
    return Rejection(what, f"{count} voxels at {spacing_mm:g} mm, fewer than {min_voxels}", "small")
