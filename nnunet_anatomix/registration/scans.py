"""The older place of :mod:`pretraining.imaging.scans`."""

from __future__ import annotations

from pretraining.imaging.scans import checked_labels, checked_scan, read_image, same_grid

__all__ = ["checked_labels", "checked_scan", "read_image", "same_grid"]
