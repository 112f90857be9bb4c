"""Small label files for the tests of template building."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK


def save(path: Path, array: np.ndarray, spacing_mm: float = 1.5, *, compressed: bool = True) -> Path:
    """Write an array (X, Y, Z), or with fewer or more axes, as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array.T if array.ndim == 3 else array)
    image.SetSpacing([spacing_mm] * image.GetDimension())
    SimpleITK.WriteImage(image, str(path), compressed)
    return path


def box(low: int, high: int, shape: tuple[int, int, int] = (16, 14, 12), value: int = 1) -> np.ndarray:
    """Make a label map of one cube."""
    volume = np.zeros(shape, dtype=np.uint8)
    volume[low:high, low:high, low:high] = value
    return volume
