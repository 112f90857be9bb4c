"""Phantom with known intensities and labels at every point, scanned tilted or unevenly spaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.imaging.grids import Grid, image_on
from tests.nnunet_anatomix.clinical.dicom_series import AXIAL, write_series

CENTRE_MM = np.array([3.0, -7.0, 60.0])
_RADII_MM = ((24.0, 20.0, 28.0), (17.0, 16.0, 20.0))
_OFFSETS_MM = ((-18.0, 2.0, 0.0), (22.0, -4.0, 6.0))


def intensities(points_mm: np.ndarray) -> np.ndarray:
    """Return smooth values between -1000 and 1000 at points (..., 3), LPS."""
    x, y, z = np.moveaxis(points_mm - CENTRE_MM, -1, 0)
    return 400 * np.sin(x / 20) + 300 * np.cos(y / 25) + 5 * z


def labels(points_mm: np.ndarray) -> np.ndarray:
    """Return the labels 0, 1 and 2 of two ellipsoids at points (..., 3), LPS."""
    found = np.zeros(points_mm.shape[:-1], np.uint8)
    for label, (radii, offset) in enumerate(zip(_RADII_MM, _OFFSETS_MM, strict=True), 1):
        found[(((points_mm - CENTRE_MM - offset) / radii) ** 2).sum(axis=-1) <= 1] = label
    return found


def grid_points(image: sitk.Image) -> np.ndarray:
    """Return the positions of all voxels, (Z, Y, X, 3), LPS."""
    grid = Grid.of(image)
    index = np.stack(np.meshgrid(*(np.arange(side) for side in grid.size), indexing="ij"), axis=-1)
    return (index @ grid.steps_mm.T + grid.origin_mm).transpose(2, 1, 0, 3)


def predict(image: sitk.Image) -> sitk.Image:
    """Return the true labels on the grid of an image, as a perfect network would."""
    return image_on(Grid.of(image), labels(grid_points(image)))


class Scan:
    """Slices at given heights, each shifted in plane by ``shear`` of its height."""

    def __init__(
        self,
        folder: Path,
        heights_mm: Sequence[float],
        *,
        shear: tuple[float, float] = (0.0, 0.0),
        direction: Sequence[Sequence[float]] = AXIAL,
        thicknesses_mm: Sequence[float] | None = None,
        size: tuple[int, int] = (110, 84),
        pixel_mm: tuple[float, float] = (0.9, 0.8),
        **series: object,
    ) -> None:
        self._axes = axes = np.asarray(direction, dtype=float)
        self._heights_mm, self._shear, self._size_mm = np.asarray(heights_mm), shear, np.multiply(size, pixel_mm)
        self._pixel_mm = np.asarray(pixel_mm)
        along = np.asarray(heights_mm, dtype=float)
        middle = (along[0] + along[-1]) / 2
        in_plane_mm = [
            (np.asarray(shear) * (height - middle)) - np.multiply(size, pixel_mm) / 2 for height in heights_mm
        ]
        self.positions_mm = np.array(
            [
                CENTRE_MM + (height - middle) * axes[2] + shift @ axes[:2]
                for height, shift in zip(heights_mm, in_plane_mm, strict=True)
            ]
        )
        columns, rows = np.arange(size[0]) * pixel_mm[0], np.arange(size[1]) * pixel_mm[1]
        in_plane = columns[None, :, None] * axes[0] + rows[:, None, None] * axes[1]
        self.points_mm = self.positions_mm[:, None, None] + in_plane
        """(N, rows, columns, 3) positions of all pixels."""
        stored = np.round(intensities(self.points_mm)).astype(np.int16) + 1024

        def change(dataset, k):
            dataset.ImagePositionPatient = [f"{mm:.8g}" for mm in self.positions_mm[k]]
            if thicknesses_mm is not None:
                dataset.SliceThickness = f"{thicknesses_mm[k]:g}"

        self.files = write_series(
            folder, stored, spacing_mm=(*pixel_mm, 1.0), direction=direction, change=change, **series
        )
        """Files in the order of slices."""

    def covers(self, points_mm: np.ndarray, *, margin_vox: float) -> np.ndarray:
        """Return which points lie inside of the sheared stack, by a margin in pixels of a slice."""
        x, y, height = np.moveaxis((points_mm - CENTRE_MM) @ self._axes.T, -1, 0)
        half_mm, margin_mm = np.ptp(self._heights_mm) / 2, margin_vox * self._pixel_mm
        inside = np.abs(height) <= half_mm + 0.01
        for along, shear, side, pixel, margin in zip(
            (x, y), self._shear, self._size_mm, self._pixel_mm, margin_mm, strict=True
        ):
            from_first = along - shear * height + side / 2
            inside &= (from_first >= margin) & (from_first <= side - pixel - margin)
        return inside


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))
