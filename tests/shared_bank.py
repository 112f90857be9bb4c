"""Make the default templates once per process instead of once per command."""

from __future__ import annotations

import functools

from pretraining.commands import defaults
from pretraining.probing import judge
from pretraining.templates.procedural import procedural_bank

default_bank = functools.cache(procedural_bank)


def install() -> None:
    """Let commands of this process share the bank, which nothing changes."""
    for module in (defaults, judge):
        module.procedural_bank = default_bank  # type: ignore[attr-defined]  # imported there by name
