"""Wording of reasons and log lines: counts, coded values, system errors; no patient data."""

from __future__ import annotations

import re


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def redact_free_text(text: str) -> str:
    """Return a coded value unchanged, and ``?`` for any other text, which may hold a name."""
    return text if re.fullmatch(r"[A-Z0-9_]{1,16}", text) else "?"


def describe_error(error: OSError) -> str:
    """Describe an operating-system error without the path of the file."""
    return (error.strerror or type(error).__name__).lower()
