"""What is not used for a template bank, and why."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["empty", "small", "unusable"]
"""``empty`` and ``small`` are what every large set of masks has; ``unusable`` is what somebody should look at."""


class Rejected(Exception):
    """Why a file is not used; the reason is the message."""

    def __init__(self, why: str, kind: Kind = "unusable") -> None:
        super().__init__(why)
        self.kind: Kind = kind


class Rejection(NamedTuple):
    """One line of the report."""

    what: str
    """File, or subject and organ."""
    why: str
    kind: Kind = "unusable"


def unreadable(error: Exception) -> Rejected:
    """Put the one line of a reader's error that says something into a reason."""
    if isinstance(error, OSError) and error.strerror:
        return Rejected(f"unreadable ({error.strerror})")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason: No such file")]
    said = lines[-1] if lines else type(error).__name__
    # ITK names the address of the reader, which is another one each time.
    said = said.removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ")
    return Rejected(f"unreadable ({' '.join(word.partition('(0x')[0] for word in said.split())})")


def too_small(what: str, count: int, spacing_mm: float, min_voxels: int) -> Rejection:
    """A mask of which resampling left too little."""
    return Rejection(what, f"{count} voxels at {spacing_mm:g} mm, fewer than {min_voxels}", "small")
