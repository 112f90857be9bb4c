"""Planes of a scan, from memory or streamed from a file that is larger than the memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.grids import Grid
from pretraining.imaging.headers import read_header
from pretraining.imaging.integrity import check_header, read_voxel_bytes, require_volume
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.scans import quiet_itk, read_image
from pretraining.imaging.volume_header import VolumeHeader


@dataclass(frozen=True)
class ScanPlanes:
    """Scan that is read plane by plane, as often as needed."""

    grid: Grid
    read: Callable[[], Iterator[np.ndarray]]
    """Function that yields the (Y, X) planes k = 0, 1, ... of the grid."""


def planes_of(image: sitk.Image) -> ScanPlanes:
    """Return the planes of an image in memory."""
    return ScanPlanes(Grid.of(image), lambda: iter(sitk.GetArrayViewFromImage(image)))


def open_planes(path: Path) -> ScanPlanes:
    """Return the planes of an image file without reading them.

    A file whose coding is unknown is read as a whole.

    Args:
        path: NIfTI, NRRD or MetaImage file of a 3D scan.

    Raises:
        InputError: If the header is damaged.
    """
    try:
        header = read_header(path)
        if header is None or header.dtype is None or header.data is None or header.compression == "other":
            return planes_of(read_image(path, "scan"))
        check_header(header)
        require_volume(header)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        with quiet_itk():
            reader.ReadImageInformation()
    except (Rejected, RuntimeError) as reason:
        raise InputError(f"scan: {path}: {str(reason).splitlines()[-1]}") from None
    if reader.GetDimension() != 3:
        return planes_of(read_image(path, "scan"))
    grid = Grid(
        size=reader.GetSize(),
        spacing_mm=reader.GetSpacing(),
        origin_mm=reader.GetOrigin(),
        direction=reader.GetDirection(),
    )
    return ScanPlanes(grid, lambda: _stream(path, header, grid))


def _stream(path: Path, header: VolumeHeader, grid: Grid) -> Iterator[np.ndarray]:
    kind, data = header.dtype, header.data
    if kind is None or data is None:
        raise ValueError("expected a header of a known coding")
    shape = grid.size[1], grid.size[0]
    plane_bytes, planes, rest = shape[0] * shape[1] * kind.itemsize, 0, b""
    try:
        for chunk in read_voxel_bytes(header, data, plane_bytes * grid.size[2]):
            rest += chunk
            while len(rest) >= plane_bytes and planes < grid.size[2]:
                yield np.frombuffer(rest[:plane_bytes], kind).reshape(shape)
                rest, planes = rest[plane_bytes:], planes + 1
            if planes == grid.size[2]:
                return
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"scan: {path} cannot be read ({type(error).__name__}); run intake again") from None
    raise InputError(f"scan: {path} is truncated; run intake again")
