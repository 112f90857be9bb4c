"""Filter for warnings of other packages about their own code, irrelevant to users of commands."""

from __future__ import annotations

import os
import re
import warnings

_KNOWN: tuple[tuple[str, type[Warning]], ...] = (
    # nnU-Net imports all of its trainers to find one by name; some import timm, which uses this
    # decorator.
    ("`torch.jit.interface` is deprecated", FutureWarning),
)
"""Beginning of the message (without commas and colons, which separate entries in the environment
variable), and a built-in category.
"""


def hide_known_warnings() -> None:
    """Hide known warnings in this process and its children (nnU-Net's commands, workers).

    Only entry points of commands call this; code that imports the packages keeps all warnings.

    Notes:
        Later entries of ``PYTHONWARNINGS`` take precedence, so these are put before the user's.
    """
    for message, category in _KNOWN:
        warnings.filterwarnings("ignore", message=re.escape(message), category=category)
    entries = [f"ignore:{message}:{category.__name__}" for message, category in _KNOWN]
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join([*entries, before] if before else entries)
