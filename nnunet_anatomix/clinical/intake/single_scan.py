"""Reading of one scan that the user names: a folder of DICOM files, or a file."""

from __future__ import annotations

import logging
from pathlib import Path

import SimpleITK as sitk

from nnunet_anatomix.clinical.dicom.headers import is_dicom
from nnunet_anatomix.clinical.dicom.parsing import HEAD_BYTES
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import classify_files, group_files
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.walk import FoundFile, walk
from pretraining.common.errors import InputError
from pretraining.imaging.rejection import Unusable
from pretraining.imaging.scans import read_image

log = logging.getLogger(__name__)

_SHOWN = 4
"""Number of series that a message describes."""


def read_scan(path: str | Path, role: str) -> sitk.Image:
    """Read a scan from a file, or from a folder of DICOM files as ``intake`` reads them.

    Args:
        path: File of any format of :func:`~pretraining.imaging.scans.read_image`; DICOM file with
            all slices; or folder in which exactly one DICOM series, of one volume, is a scan.
        role: Name of the scan for messages: ``fixed`` or ``moving``.

    Returns:
        The scan; CT in Hounsfield units.

    Raises:
        InputError: If there is no scan, more than one, or it has a defect.
    """
    path = Path(path)
    if not is_dicom_path(path):
        return read_image(path, role)
    root, series = find_series(path, role)
    for note in series.notes:
        log.info("%s: %s: %s", role, path, note)
    try:
        with quiet_readers():
            return read_series(root, series)
    except Unusable as reason:
        raise InputError(f"{role}: {path}: {reason}") from None


def is_dicom_path(path: Path) -> bool:
    """Return whether a path is a folder, or a DICOM file."""
    return path.is_dir() or (path.is_file() and _is_dicom_file(path))


def find_series(path: Path, role: str) -> tuple[Path, Series]:
    """Find the one scan of a folder of DICOM files, or of a DICOM file with all slices.

    Args:
        path: Folder or file.
        role: Name of the scan for messages.

    Returns:
        The folder to which the names of the series' files are relative, and the series.

    Raises:
        InputError: If there is no scan, or more than one.
    """
    folder, name = (path, None) if path.is_dir() else (path.parent, path.name)
    where = f"{role}: {path}"
    root = folder.resolve()
    if name is None:
        files, strays = walk(root)
    else:
        status = (root / name).stat()
        files, strays = [FoundFile(name, status.st_size, status.st_mtime_ns)], []
    found = group_files(root, files, classify_files(root, files), strays)[0]
    return root, _require_one([one for one in found if one.kind == "dicom"], where)


def _require_one(found: list[Series], where: str) -> Series:
    if not found:
        raise InputError(f"{where}: expected a folder with a DICOM series, found no DICOM file; pass a file or folder")
    scans = [one for one in found if not one.problem and not one.is_scout and min(one.known_grid.size) > 1]
    if not scans:
        reasons = list(dict.fromkeys(one.problem or "a single slice or scout" for one in found))
        raise InputError(f"{where}: no DICOM series can be used: {'; '.join(reasons[:_SHOWN])}; pass another folder")
    if len(scans) > 1:
        shown = ", ".join(_describe(one) for one in scans[:_SHOWN])
        raise InputError(
            f"{where}: expected one scan, found {len(scans)} ({shown}{', ...' if len(scans) > _SHOWN else ''}); "
            "pass a folder with one of them, or convert them with nnunet-anatomix intake"
        )
    return scans[0]


def _describe(series: Series) -> str:
    size = "×".join(map(str, series.known_grid.size))
    return " ".join(part for part in (series.modality, size, series.volume) if part)


def _is_dicom_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False
