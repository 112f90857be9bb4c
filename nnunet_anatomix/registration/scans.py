"""The older place of :mod:`pretraining.imaging.scans`."""

from __future__ import annotations

from pretraining.imaging.grids import same_grid as same_grid
from pretraining.imaging.scans import checked_labels as checked_labels
from pretraining.imaging.scans import checked_scan as checked_scan
from pretraining.imaging.scans import read_image as read_image
