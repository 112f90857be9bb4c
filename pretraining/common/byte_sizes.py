"""Human-readable sizes in bytes: 4G, 512M, 1.5 GiB."""

from __future__ import annotations

import re

from pretraining.common.errors import InputError

_UNITS = {unit: 1024**power for power, unit in enumerate(("", "K", "M", "G", "T"))}
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str) -> int:
    """Parse a size such as ``4G``, ``512M``, ``1.5 GiB`` or ``1000``; units are powers of 1024.

    Args:
        text: Number and optional unit (K, M, G or T, optionally followed by B or iB).

    Returns:
        The size, bytes.

    Raises:
        InputError: If the text is not a size, or the size is less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise InputError(f"expected a size such as 4G or 512M, found '{text}'")
    return size


def format_bytes(size: float) -> str:
    """Format a size with four digits, in the largest unit not above it: ``1.457G``."""
    unit = next((unit for unit, factor in reversed(_UNITS.items()) if size >= factor), "")
    return f"{size / _UNITS[unit]:.4g}{unit}"
