"""Application of transforms to files: images, label maps and points."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import SimpleITK as sitk

from nnunet_anatomix.registration.apply import looks_like_labels, move_image, move_labels
from nnunet_anatomix.registration.landmarks import POINT_FILES, read_points
from nnunet_anatomix.registration.lists import read_list
from nnunet_anatomix.registration.transforms import find_sources, invert_transform, move_points, read_transform
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock
from pretraining.imaging.scans import check_geometry, read_image
from pretraining.imaging.writing import write_image

log = logging.getLogger(__name__)

Interpolation = Literal["auto", "linear", "nearest"]
Reader = Callable[[str | Path, str], sitk.Image]
_IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Formats of images that are written as they were read; others become ``.nii.gz``."""


@dataclass(frozen=True, kw_only=True)
class Application:
    """One file to move from the moving scan to the fixed scan of a transform."""

    transform: Path
    """Transform file, or folder of a registration."""
    file: Path
    """Image, label map, or points."""
    reference: Path | None
    """Image on the target grid; not needed for points."""
    name: str
    """Name of the file to write, without its ending."""

    @property
    def is_points(self) -> bool:
        """Whether the file holds points."""
        return self.file.suffix.lower() in POINT_FILES

    @property
    def written(self) -> str:
        """Name of the file to write."""
        ending = _ending(self.file)
        return self.name + (ending if self.is_points or ending.lower() in _IMAGE_ENDINGS else ".nii.gz")


def applications(transform: Path, files: Sequence[Path], reference: Path | None) -> list[Application]:
    """Return one entry per file; each is written with its own name.

    Args:
        transform: Transform of all files.
        files: Files to move.
        reference: Image on the target grid.
    """
    return [
        Application(
            transform=transform, file=file, reference=reference, name=file.name[: len(file.name) - len(_ending(file))]
        )
        for file in files
    ]


def read_applications(path: Path) -> list[Application]:
    """Read a list of files to move.

    Args:
        path: CSV file with the columns ``transform`` and ``to``, and optionally ``reference`` and
            ``name`` (of the file to write); paths are relative to its folder.

    Returns:
        One entry per row.

    Raises:
        InputError: As in :func:`~nnunet_anatomix.registration.lists.read_list`.
    """
    rows = read_list(
        path,
        "batch",
        required=("transform", "to"),
        optional=("reference",),
        unnamed=lambda number, cells: f"{number:03d}_{Path(cells['to']).name.split('.')[0]}",
    )
    return [
        Application(
            transform=path.parent / row.cells["transform"],
            file=path.parent / row.cells["to"],
            reference=path.parent / row.cells["reference"] if "reference" in row.cells else None,
            name=row.name,
        )
        for row in rows
    ]


def apply_to_files(
    tasks: Sequence[Application],
    out: Path,
    *,
    inverse: bool = False,
    interpolation: Interpolation = "auto",
    read_scan: Reader = read_image,
) -> int:
    """Move files through transforms; a file that fails does not stop the others.

    Args:
        tasks: Files to move.
        out: Folder for the moved files. Its ``failed.csv`` lists those that failed, and why.
        inverse: Whether to move from the fixed to the moving scan instead.
        interpolation: Interpolation of images: linear, nearest neighbour (labels), or auto, which
            tells labels from scans by their numbers, and logs it.
        read_scan: Function of path and role that reads images.

    Returns:
        Number of files written.

    Raises:
        InputError: If two files would get the same name, or one would replace an input.
        CommandFailed: If some files failed, after all others were moved.
        InUse: If another process writes into ``out``.
    """
    inputs = {path.resolve() for task in tasks for path in (task.file, task.transform, task.reference) if path}
    by_name: dict[str, Application] = {}
    for task in tasks:
        if task.written in by_name:
            raise InputError(
                f"two files would be written as {task.written}, expected different names: {by_name[task.written].file} "
                f"and {task.file}; use one call for each with its own --out, or names in a CSV with --batch"
            )
        if (out / task.written).resolve() in inputs:
            raise InputError(f"--out: {out / task.written} is an input, which would be replaced; name another folder")
        by_name[task.written] = task
    load = lru_cache(maxsize=1)(_load)

    def move(task: Application) -> None:
        if task.is_points:
            _move_points(task, out, load(task.transform, False), inverse)
        else:
            _move_voxels(task, out, load(task.transform, inverse), interpolation, read_scan)

    with hold_lock(out):
        outcome = run_batch(by_name, move, noun="file", failures=out)
    outcome.require_all("files", see=out / FAILURES)
    return outcome.done


def _load(path: Path, inverse: bool) -> sitk.Transform:
    transform = read_transform(path, "transform")
    return invert_transform(transform) if inverse else transform


def _move_points(task: Application, out: Path, transform: sitk.Transform, inverse: bool) -> None:
    """Write moved points; a transform maps fixed to moving points, so points move against it."""
    points = read_points(task.file)
    if inverse:
        moved = move_points(transform, points.points_mm)
    else:
        moved, is_found = find_sources(transform, points.points_mm)
        if not is_found.all():
            numbers = ", ".join(str(number + 1) for number in (~is_found).nonzero()[0])
            log.warning("%s: the transform folds at points %s; check their positions", task.file.name, numbers)
    write_text(out / task.written, points.text_with(moved))


def _move_voxels(
    task: Application, out: Path, transform: sitk.Transform, interpolation: Interpolation, read_scan: Reader
) -> None:
    if task.reference is None:
        raise InputError(f"{task.file}: expected a reference image, found none; pass one with --reference")
    reference = read_scan(task.reference, "reference")
    check_geometry(reference, "reference")
    image = read_scan(task.file, "file to move")
    check_geometry(image, str(task.file))
    is_labels = looks_like_labels(image) if interpolation == "auto" else interpolation == "nearest"
    if interpolation == "auto":
        found, other = ("labels, moved by nearest neighbour", "linear") if is_labels else ("a scan", "nearest")
        log.info("%s: by its values %s; if it is not, use --interpolation %s", task.file.name, found, other)
    write_image(out / task.written, (move_labels if is_labels else move_image)(image, reference, transform))


def _ending(file: Path) -> str:
    """Return ``.nii.gz``, ``.mrk.json`` or the last suffix; none of a folder."""
    if file.is_dir():
        return ""
    name = file.name.lower()
    double = next((ending for ending in (".nii.gz", ".mrk.json") if name.endswith(ending)), None)
    return file.name[-len(double) :] if double else file.suffix
