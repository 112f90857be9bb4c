"""Evidence of a contrast agent in an MR scan: its type, which a series carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AgentEvidence:
    """Whether a scan shows a contrast agent, and the reason."""

    state: Literal["unmarked", "native", "enhanced", "unclear"] = "unmarked"
    """``unmarked``: nothing in the study speaks of an agent in this scan."""
    reason: str = ""
    """Why the state is unclear."""


UNMARKED = AgentEvidence()
