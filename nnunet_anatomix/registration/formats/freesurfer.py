"""Linear transforms of FreeSurfer (``.lta``)."""

from __future__ import annotations

import itertools
import logging
import re
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.formats.matrices import transform_from_ras, vox_to_ras
from pretraining.common.errors import InputError

log = logging.getLogger(__name__)

_VOX_TO_VOX, _RAS_TO_RAS = 0, 1
_SAME_CORNERS_MM = 0.5
"""Largest distance of the corners of one and the same volume; headers are rounded."""
_FIELD = re.compile(r"^\s*(\w+)\s*=\s*(.*?)\s*$")


@dataclass(frozen=True, kw_only=True)
class LtaVolume:
    """Geometry of one of the two volumes of a file."""

    size: tuple[int, ...]
    vox_to_ras: np.ndarray
    """(4, 4), mm."""

    def is_grid_of(self, image: sitk.Image) -> bool:
        """Return whether an image lies on this grid."""
        if tuple(image.GetSize()) != self.size:
            return False
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, side) for side in self.size))]).T
        distances = np.linalg.norm((self.vox_to_ras @ corners - vox_to_ras(image) @ corners)[:3], axis=0)
        return bool(distances.max() < _SAME_CORNERS_MM)


@dataclass(frozen=True, kw_only=True)
class Lta:
    """Content of a file with one matrix, from source to destination."""

    kind: int
    """0 between voxel indices, 1 between RAS points in mm."""
    matrix: np.ndarray
    """(4, 4)."""
    source: LtaVolume | None
    destination: LtaVolume | None


def is_lta(text: str) -> bool:
    """Return whether a text begins like an LTA file: type, then number of matrices."""
    fields = [match.group(1) for line in text.splitlines()[:50] if (match := _FIELD.match(line))]
    return fields[:2] == ["type", "nxforms"]


def parse_lta(text: str, where: str) -> Lta:
    """Parse an LTA file.

    Args:
        text: Content of the file.
        where: Role and file, for messages.

    Returns:
        The matrix and the geometry of its volumes, where the file has them.

    Raises:
        InputError: If the file is incomplete, has several matrices or another type of them.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        kind, number = int(_value(lines[0])), int(_value(lines[1]))
    except (ValueError, IndexError):
        raise InputError(f"{where} is not a complete LTA file of FreeSurfer; create it again") from None
    if kind not in (_VOX_TO_VOX, _RAS_TO_RAS):
        raise InputError(
            f"{where} is an LTA file of type {kind}, expected 0 (voxels) or 1 (RAS); "
            "convert it with lta_convert --outlta"
        )
    if number != 1:
        raise InputError(f"{where} is an LTA file with {number} matrices, expected 1; extract one")
    shape = next((place for place, line in enumerate(lines) if line.split() == ["1", "4", "4"]), None)
    try:
        rows = (
            [] if shape is None else [[float(word) for word in line.split()] for line in lines[shape + 1 : shape + 5]]
        )
        matrix = np.array(rows)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError
        source, destination = (_parse_volume(lines, name) for name in ("src", "dst"))
    except ValueError:
        raise InputError(
            f"{where} is an LTA file of FreeSurfer without a whole 4x4 matrix and volumes; create it again"
        ) from None
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError(f"{where} is an LTA file with a singular matrix; create it again")
    return Lta(kind=kind, matrix=matrix, source=source, destination=destination)


def lta_transform(lta: Lta, scans: tuple[sitk.Image, sitk.Image] | None, where: str) -> sitk.Transform:
    """Convert an LTA file to a transform of ITK.

    Args:
        lta: Content of the file.
        scans: Fixed and moving scan, if known.
        where: Role and file, for messages.

    Returns:
        Transform from points of the fixed to points of the moving scan. The source of the file is
        the moving scan, as FreeSurfer's programs write it, unless its volumes show the opposite.

    Raises:
        InputError: If the matrix is between voxels and a volume is unknown.
    """
    is_reversed = False
    if scans and lta.source and lta.destination:
        fixed, moving = scans
        is_usual = lta.source.is_grid_of(moving) and lta.destination.is_grid_of(fixed)
        is_reversed = not is_usual and lta.source.is_grid_of(fixed) and lta.destination.is_grid_of(moving)
        if is_reversed:
            log.info("%s: its source is the fixed scan; the inverse of the usual direction is used", where)
    matrix = lta.matrix
    if lta.kind == _VOX_TO_VOX:
        images = None if scans is None else scans if is_reversed else scans[::-1]
        geometries = [
            volume.vox_to_ras if volume else None if images is None else vox_to_ras(images[number])
            for number, volume in enumerate((lta.source, lta.destination))
        ]
        source, destination = geometries
        if source is None or destination is None:
            raise InputError(
                f"{where} is a matrix between voxels without the geometry of its volumes; "
                "convert it with lta_convert --outlta to RAS"
            )
        matrix = destination @ matrix @ np.linalg.inv(source)
    return transform_from_ras(matrix if is_reversed else np.linalg.inv(matrix))


def _parse_volume(lines: list[str], name: str) -> LtaVolume | None:
    """Return the geometry below ``src volume info`` or ``dst volume info``; None if not valid."""
    start = next((place for place, line in enumerate(lines) if line.split()[:3] == [name, "volume", "info"]), None)
    if start is None:
        return None
    fields: dict[str, str] = {}
    for line in lines[start + 1 : start + 9]:
        if match := _FIELD.match(line):
            fields.setdefault(match.group(1), match.group(2))
    if int(fields.get("valid", "0").split()[0]) != 1:
        return None
    try:
        size = tuple(int(side) for side in fields["volume"].split())
        spacing, *axes, centre = (
            np.array([float(number) for number in fields[field].split()])
            for field in ("voxelsize", "xras", "yras", "zras", "cras")
        )
        affine = np.eye(4)
        affine[:3, :3] = np.stack(axes, axis=1) * spacing
        affine[:3, 3] = centre - affine[:3, :3] @ (np.array(size) / 2)
    except KeyError as error:
        raise ValueError(error) from None
    if abs(np.linalg.det(affine)) < 1e-9:
        raise ValueError(name)
    return LtaVolume(size=size, vox_to_ras=affine)


def _value(line: str) -> str:
    return line.partition("=")[2].partition("#")[0].strip()
