"""Algorithm 1's building blocks written plainly, with SciPy and scikit-image on whole arrays."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def padded(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zero-pad symmetrically to at least ``shape``; the odd voxel goes behind."""
    widths = []
    for n, size in zip(mask.shape, shape, strict=True):
        missing = max(size - n, 0)
        widths.append((missing // 2, missing - missing // 2))
    return np.pad(mask, widths)


def mapped_coordinates(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(3, X, Y, Z) input coordinates of each output voxel."""
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float64) for n in shape], indexing="ij"))
    return np.tensordot(matrix[:, :3], grid, axes=1) + matrix[:, 3].reshape(3, 1, 1, 1)


def published_template(mask: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return (X, Y, Z) bool: affine about voxel 0 of the repeated, padded template, nearest."""
    return (
        ndimage.map_coordinates(
            padded(mask.astype(np.uint8), shape), mapped_coordinates(matrix, shape), order=0, mode="grid-wrap"
        )
        > 0
    )


def paper_template(mask: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return (X, Y, Z) bool: cropped or padded template, affine about the centre, nearest.

    Outside of the template is nothing.
    """
    box = padded(mask.astype(np.uint8), shape)
    cut = tuple(slice((n - size) // 2, (n - size) // 2 + size) for n, size in zip(box.shape, shape, strict=True))
    middle = (np.array(shape) - 1) / 2
    centred = np.column_stack([matrix[:, :3], matrix[:, 3] + middle - matrix[:, :3] @ middle])
    return ndimage.map_coordinates(box[cut], mapped_coordinates(centred, shape), order=0, mode="grid-constant") > 0


def near_a_border(coordinates: np.ndarray, tolerance: float) -> np.ndarray:
    """Where a coordinate lies so close between two voxels that rounding may go either way."""
    return (np.abs(coordinates - np.floor(coordinates) - 0.5) < tolerance).any(axis=0)
