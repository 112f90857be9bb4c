"""Exceptions for image files that are not used, with messages free of file and patient names."""

from __future__ import annotations

from typing import Literal

RejectionKind = Literal["empty", "small", "unusable"]
"""``empty`` and ``small`` are normal in large sets of masks; ``unusable`` needs attention."""


class Unusable(Exception):
    """Scan that is not used; the message is the reason, free of values that identify a person."""


class Rejected(Unusable):
    """File that is not used; the message is the reason."""

    def __init__(self, reason: str, kind: RejectionKind = "unusable") -> None:
        super().__init__(reason)
        self.kind: RejectionKind = kind


def unreadable(error: Exception) -> Rejected:
    """Convert a reader's error to a rejection with one informative line.

    Args:
        error: Exception from ITK or the operating system.
    """
    if isinstance(error, OSError) and error.strerror:
        return Rejected(f"unreadable ({error.strerror})")
    lines = [
        line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason: No such file")
    ]
    message = lines[-1] if lines else type(error).__name__
    # ITK's message contains the reader's address, which differs from run to run.
    message = message.removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ")
    return Rejected(f"unreadable ({' '.join(word.partition('(0x')[0] for word in message.split())})")
