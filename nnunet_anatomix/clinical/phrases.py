"""Why a file or series cannot be taken, in words that name no patient."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pretraining.imaging.rejection import Unusable as Unusable


def count_phrase(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def code_word(text: str) -> str:
    """A coded value as it may be shown; what is no code word might be anything, a name too."""
    return text if re.fullmatch(r"[A-Z0-9_]{1,16}", text) else "?"


def list_phrase(values: Iterable[str], most: int = 4) -> str:
    values = list(values)
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
