"""The older names of :mod:`pretraining.common.atomic`."""

from __future__ import annotations

from pretraining.common.atomic import atomic_write as written_whole
from pretraining.common.atomic import write_text

__all__ = ["write_text", "written_whole"]
