"""Warnings of other packages about their own code, which tell users of our commands nothing."""

from __future__ import annotations

import os
import re
import warnings

_KNOWN: tuple[tuple[str, type[Warning]], ...] = (
    # nnU-Net imports all of its trainers to find one by name; some of them import timm, which uses
    # this decorator.
    ("`torch.jit.interface` is deprecated", FutureWarning),
)
"""How the message begins (no comma or colon: the environment variable separates by them), and a
built-in category.
"""


def hide_known_warnings() -> None:
    """Hide these warnings in this process and in those it starts (nnU-Net's commands, worker processes).

    Only entry points of commands call it: whoever imports the packages keeps all warnings.

    Notes:
        Later entries of ``PYTHONWARNINGS`` take precedence, so these are put in front of what the
        user has set.
    """
    for message, category in _KNOWN:
        warnings.filterwarnings("ignore", message=re.escape(message), category=category)
    entries = [f"ignore:{message}:{category.__name__}" for message, category in _KNOWN]
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join([*entries, before] if before else entries)
