"""The older names of :mod:`pretraining.common.atomic`."""

from __future__ import annotations

from pretraining.common.atomic import atomic_write as written_whole  # noqa: F401
from pretraining.common.atomic import write_text as write_text
