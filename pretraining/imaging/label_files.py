"""Label files: one volume of whole numbers per file, checked, and resampled to the wanted voxel size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pretraining.common.triple import triple
from pretraining.imaging.headers import read_header
from pretraining.imaging.integrity import check_header, require_volume
from pretraining.imaging.limits import LARGEST_VOXELS
from pretraining.imaging.rejection import Rejected

if TYPE_CHECKING:
    import SimpleITK as sitk

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
LABEL_LIMIT = 2000
"""A file with more distinct values is taken for an intensity image."""
FEW_VALUES = 32
"""A file with at most so many distinct values besides 0 is taken for a label map without looking at
neighbours.
"""
LEAST_AGREEMENT = 0.5
"""A file with more values of which fewer neighbours than this share are equal (:func:`agreement`)
is taken for a scan. Measured: real label maps with 41 to 312 values have .80 or more, and the one
with the least (158 regions of a brain at 1 mm) still .51 if only every fourth voxel of each axis is
kept; scans stored as whole numbers have .44 or less.
"""
CHUNK = 2**22
"""Voxels that are looked at in one go."""


class LabelMap(NamedTuple):
    """What a label file holds."""

    labels: np.ndarray
    """(X, Y, Z) of the smallest unsigned type that holds them."""
    spacing_mm: tuple[float, float, float]
    values: tuple[int, ...]
    """The distinct numbers but 0, ascending."""


def is_label_file(name: str) -> bool:
    """Whether a file of this name may hold labels; hidden ones are left alone."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def stem(name: str) -> str:
    """The file name without its suffix."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), Path(name).stem)


def read_size(path: Path) -> tuple[int, int, int]:
    """Read the size of a label file from its header alone.

    Returns:
        (X, Y, Z), voxels.

    Raises:
        Rejected: For what :func:`read_labels` refuses for its header.
    """
    header = read_header(path)
    if header is None:
        raise Rejected(f"expected {', '.join(SUFFIXES)}")
    check_header(header)
    require_volume(header)
    return triple(header.size)


def read_labels(path: Path) -> LabelMap:
    """Read one label file.

    Raises:
        Rejected: If it is damaged or cannot be read (see :mod:`pretraining.imaging.integrity`), or
            is no label map: not three-dimensional, with fractions, negative values or too many
            values, or with many values that differ from voxel to voxel.
    """
    # Imported here, since a machine that only opens banks needs no SimpleITK.
    from pretraining.imaging.scans import load_image

    return label_map(load_image(path)[0])


def label_map(image: sitk.Image) -> LabelMap:
    """Take an image of three axes for labels.

    Raises:
        Rejected: As :func:`read_labels`.
    """
    import SimpleITK

    # Transposed, so that axes come as X, Y, Z; a view, and the memory behind it is read in its own
    # order below.
    voxels = SimpleITK.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Rejected("expected labels, found NaN or infinity")
    if low < 0:
        raise Rejected(f"expected labels, found the negative number {low:g}: an intensity image")
    if high >= 2**32:
        raise Rejected(f"expected labels below 2**32, found {high:g}: an intensity image")
    labels = np.empty(voxels.shape, dtype=np.min_scalar_type(int(high)))
    values: set[int] = set()
    for part in _slabs(voxels.shape):
        labels[part] = voxels[part]
        if voxels.dtype.kind == "f" and (labels[part] != voxels[part]).any():
            raise Rejected("expected labels, found numbers that are not whole: an intensity image")
        values.update(_distinct(labels[part], int(high)))
        if len(values) > LABEL_LIMIT:
            raise Rejected(f"expected labels, found more than {LABEL_LIMIT} distinct values: an intensity image")
    if len(values - {0}) > FEW_VALUES and (share := agreement(labels)) < LEAST_AGREEMENT:
        raise Rejected(
            f"expected labels, found {len(values - {0})} values, and only {share:.0%} of neighbouring voxels are equal "
            f"({LEAST_AGREEMENT:.0%} or more in label maps): a scan"
        )
    return LabelMap(labels.T, image.GetSpacing(), tuple(sorted(values - {0})))


def agreement(labels: np.ndarray) -> float:
    """Share of equal values among pairs of voxels that share a face and are both not 0; 1 if there is no such pair.

    Args:
        labels: (X, Y, Z) whole numbers, 0 is background.

    Notes:
        Pairs with background are left out: sheets and tubes one voxel thick, which have many of
            them, agree like any other
        label map.
    """
    equal = pairs = 0
    step = max(1, CHUNK // math.prod(labels.shape[1:]))
    for start in range(0, labels.shape[0], step):
        part = labels[start : start + step + 1]
        for axis in range(3):
            # The last slice is there for its neighbours in the first axis alone, it is the next
            # part's first.
            lines = part if axis == 0 else part[:step]
            one, other = (np.moveaxis(lines, axis, 0)[where] for where in (slice(None, -1), slice(1, None)))
            both = (one != 0) & (other != 0)
            pairs += int(np.count_nonzero(both))
            equal += int(np.count_nonzero(both & (one == other)))
    return equal / pairs if pairs else 1.0


def resample_nearest(labels: np.ndarray, spacing_mm: tuple[float, ...], wanted_mm: float) -> np.ndarray:
    """Resample (X, Y, Z) to a cubic voxel size by nearest lookup; both grids cover the same box.

    Raises:
        Rejected: If the result would be larger than any scan.
    """
    if np.allclose(spacing_mm, wanted_mm, rtol=1e-3, atol=0):
        return labels
    counts = [max(1, round(size * spacing / wanted_mm)) for size, spacing in zip(labels.shape, spacing_mm, strict=True)]
    if math.prod(counts) > LARGEST_VOXELS:
        found = f"{' x '.join(map(str, counts))} at {wanted_mm:g} mm, from voxels of {spacing_mm} mm"
        raise Rejected(f"expected at most {LARGEST_VOXELS} voxels, found {found}")
    picks = []
    for size, spacing, count in zip(labels.shape, spacing_mm, counts, strict=True):
        centres = (np.arange(count) + 0.5) * (wanted_mm / spacing)
        picks.append(np.clip(centres.astype(np.int64), 0, size - 1))
    return labels[np.ix_(*picks)]


def _slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Parts of the first axis with about ``CHUNK`` voxels each."""
    step = max(1, CHUNK // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _distinct(labels: np.ndarray, high: int) -> list[int]:
    if high == 1:
        return [1] if labels.any() else []
    if high < 2**16:
        return np.flatnonzero(np.bincount(labels.ravel(), minlength=high + 1)).tolist()
    return np.unique(labels).tolist()
