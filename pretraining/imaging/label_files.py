"""Reading of label maps, their distinction from scans, and resampling to cubic voxels."""

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
"""Number of distinct values above which a file counts as an intensity image."""
FEW_VALUES = 32
"""Number of distinct values besides 0 up to which a file counts as a label map without comparing
neighbours.
"""
LEAST_AGREEMENT = 0.5
"""Share of equal neighbours (:func:`agreement`) below which a file with more values counts as a
scan. Measured: real label maps with 41 to 312 values have at least .80; the lowest (158 regions of
a brain at 1 mm) still has .51 if only every fourth voxel of each axis is kept; scans stored as
integers have at most .44.
"""
CHUNK = 2**22
"""Number of voxels processed at once."""


class LabelMap(NamedTuple):
    """Content of a label file."""

    labels: np.ndarray
    """Labels, (X, Y, Z) of the smallest unsigned integer type."""
    spacing_mm: tuple[float, float, float]
    values: tuple[int, ...]
    """Distinct values except 0, ascending."""


def is_label_file(name: str) -> bool:
    """Tell whether a file may be a label file by its name; hidden files are not."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def stem(name: str) -> str:
    """Return the file name without its suffix."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), Path(name).stem)


def read_size(path: Path) -> tuple[int, int, int]:
    """Read the size of a label file from its header.

    Args:
        path: Label file.

    Returns:
        (X, Y, Z), voxels.

    Raises:
        Rejected: If the header is damaged or not that of a single volume.
    """
    header = read_header(path)
    if header is None:
        raise Rejected(f"expected {', '.join(SUFFIXES)}")
    check_header(header)
    require_volume(header)
    return triple(header.size)


def read_labels(path: Path) -> LabelMap:
    """Read one label file.

    Args:
        path: Label file.

    Raises:
        Rejected: If it is damaged or cannot be read (see :mod:`pretraining.imaging.integrity`), or
            is not a label map: not three-dimensional, with fractions, negative values or too many
            values, or with many values that differ between neighbours.
    """
    # Imported here, since a machine that only opens banks does not need SimpleITK.
    from pretraining.imaging.scans import load_image

    return label_map(load_image(path)[0])


def label_map(image: sitk.Image) -> LabelMap:
    """Convert a 3D image to a label map.

    Args:
        image: Scalar 3D image.

    Raises:
        Rejected: If it is not a label map, see :func:`read_labels`.
    """
    import SimpleITK

    # Processed in the array's own order Z, Y, X; the result is a transposed view.
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
            f"(at least {LEAST_AGREEMENT:.0%} in label maps): a scan"
        )
    return LabelMap(labels.T, image.GetSpacing(), tuple(sorted(values - {0})))


def agreement(labels: np.ndarray) -> float:
    """Compute the share of equal values among neighbouring voxels.

    Args:
        labels: (X, Y, Z) integers, 0 is background.

    Returns:
        Share of equal pairs among all pairs of voxels that share a face and are both not 0; 1 if
        there is no such pair.

    Notes:
        Pairs with background do not count, so that structures one voxel thick do not lower the
        result.
    """
    equal = pairs = 0
    step = max(1, CHUNK // math.prod(labels.shape[1:]))
    for start in range(0, labels.shape[0], step):
        part = labels[start : start + step + 1]
        for axis in range(3):
            # The last slice only serves neighbours along the first axis; it belongs to the next
            # part.
            slices = part if axis == 0 else part[:step]
            first, second = (np.moveaxis(slices, axis, 0)[where] for where in (slice(None, -1), slice(1, None)))
            in_foreground = (first != 0) & (second != 0)
            pairs += int(np.count_nonzero(in_foreground))
            equal += int(np.count_nonzero(in_foreground & (first == second)))
    return equal / pairs if pairs else 1.0


def resample_nearest(labels: np.ndarray, spacing_mm: tuple[float, ...], new_spacing_mm: float) -> np.ndarray:
    """Resample labels to cubic voxels by nearest neighbour; both grids cover the same box.

    Args:
        labels: (X, Y, Z).
        spacing_mm: Spacing of the labels.
        new_spacing_mm: Spacing of the result along all axes.

    Raises:
        Rejected: If the result would be larger than any scan.
    """
    if np.allclose(spacing_mm, new_spacing_mm, rtol=1e-3, atol=0):
        return labels
    counts = [
        max(1, round(size * spacing / new_spacing_mm)) for size, spacing in zip(labels.shape, spacing_mm, strict=True)
    ]
    if math.prod(counts) > LARGEST_VOXELS:
        found = f"{' x '.join(map(str, counts))} at {new_spacing_mm:g} mm, from voxels of {spacing_mm} mm"
        raise Rejected(f"expected at most {LARGEST_VOXELS} voxels, found {found}")
    picks = []
    for size, spacing, count in zip(labels.shape, spacing_mm, counts, strict=True):
        centres = (np.arange(count) + 0.5) * (new_spacing_mm / spacing)
        picks.append(np.clip(centres.astype(np.int64), 0, size - 1))
    return labels[np.ix_(*picks)]


def _slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of the first axis with about ``CHUNK`` voxels each."""
    step = max(1, CHUNK // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _distinct(labels: np.ndarray, high: int) -> list[int]:
    if high == 1:
        return [1] if labels.any() else []
    if high < 2**16:
        return np.flatnonzero(np.bincount(labels.ravel(), minlength=high + 1)).tolist()
    return np.unique(labels).tolist()
