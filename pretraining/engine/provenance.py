"""What weights were made of: the part of their card that speaks of the templates."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from pretraining.engine.templates import TemplateBank


def describe_templates(bank: TemplateBank) -> dict[str, Any]:
    """Number, spacing, sources and licences of the templates, and a digest of the bank's index; JSON types only."""
    entries = list(bank.entries())
    # The index has every shape and voxel count: two banks that agree in it hold the same organs of the same scans.
    rows = "\n".join(f"{entry.source} {entry.subject} {entry.organ} {entry.shape} {entry.voxel_count}" for entry in entries)
    return {
        "count": len(bank),
        "spacing_mm": bank.spacing_mm,
        "sources": dict(sorted(Counter(entry.source for entry in entries).items())),
        "licences": sorted({entry.licence for entry in entries if entry.licence}),
        "sha256": hashlib.sha256(rows.encode()).hexdigest(),
    }
