"""Why an image file is not used, in words that name neither file nor patient."""

from __future__ import annotations

from typing import Literal

RejectionKind = Literal["empty", "small", "unusable"]
"""``empty`` and ``small`` are what every large set of masks has; ``unusable`` is what somebody
should look at.
"""


class Unusable(Exception):
    """A scan that is not taken; the message is the reason, and never holds a value that may identify a person."""


class Rejected(Unusable):
    """Why a file is not used; the reason is the message."""

    def __init__(self, why: str, kind: RejectionKind = "unusable") -> None:
        super().__init__(why)
        self.kind: RejectionKind = kind


def unreadable(error: Exception) -> Rejected:
    """Put the one line of a reader's error that says something into a reason."""
    if isinstance(error, OSError) and error.strerror:
        return Rejected(f"unreadable ({error.strerror})")
    lines = [
        line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason: No such file")
    ]
    said = lines[-1] if lines else type(error).__name__
    # ITK names the address of the reader, which is another one each time.
    said = said.removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ")
    return Rejected(f"unreadable ({' '.join(word.partition('(0x')[0] for word in said.split())})")
