"""Synthetic DICOM files that hold several slices: enhanced files, SPECT, Siemens mosaics."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import EnhancedMRImageStorage, NuclearMedicineImageStorage

from tests.nnunet_anatomix.clinical.dicom_series import write_series

Tags = Mapping[str, Mapping[str, object]]
"""Functional group sequence → keyword → value."""


def write_enhanced(
    path: Path,
    planes: Sequence[np.ndarray],
    positions_mm: Sequence[Sequence[float]],
    tags: Callable[[int], Tags] = lambda frame: {},
    *,
    change: Callable[[Dataset], None] = lambda dataset: None,
    **series: object,
) -> Path:
    """Write an enhanced MR file.

    Args:
        path: File to write.
        planes: (Y, X) uint16 or int16 stored values of each frame.
        positions_mm: Position of each frame, LPS.
        tags: Function that returns more functional groups of a frame, numbered from 0.
        change: Function called with the dataset before writing.
        **series: Settings of :func:`write_series`.
    """
    scratch = path.parent / f".{path.name}"
    written = write_series(scratch, np.asarray(planes[:1]), modality="MR", slope=None, intercept=None, **series)[0]
    dataset = dcmread(written)
    written.unlink()
    scratch.rmdir()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    shared = Dataset()
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = dataset.ImageOrientationPatient
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = dataset.PixelSpacing
    shared.PixelMeasuresSequence[0].SliceThickness = dataset.SliceThickness
    frames = []
    for number, position in enumerate(positions_mm):
        frame = Dataset()
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [f"{mm:.8g}" for mm in position]
        for sequence, values in tags(number).items():
            item = Dataset()
            for keyword, value in values.items():
                setattr(item, keyword, value)
            setattr(frame, sequence, [item])
        frames.append(frame)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    dataset.NumberOfFrames = len(planes)
    dataset.PixelData = np.asarray(planes).tobytes()
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_nuclear(path: Path, voxels: np.ndarray, *, spacing_mm: float = 3.0, origin_mm=(-30.0, 20.0, 100.0)) -> Path:
    """Write a reconstructed SPECT: one file, whose detector has the place of the first slice."""
    written = write_series(path.parent / "scratch", voxels[:1], modality="NM", image_type=_NUCLEAR_TYPE)[0]
    dataset = dcmread(written)
    written.unlink()
    written.parent.rmdir()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = NuclearMedicineImageStorage
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = list(origin_mm), [1, 0, 0, 0, 1, 0]
    dataset.DetectorInformationSequence = [detector]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, keyword)
    dataset.NumberOfFrames, dataset.SpacingBetweenSlices = len(voxels), spacing_mm
    dataset.SliceVector = list(range(1, len(voxels) + 1))
    dataset.FrameIncrementPointer = 0x00540080
    dataset.PixelData = voxels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


_NUCLEAR_TYPE = ("ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION")
_CSA_TAGS = ("NumberOfImagesInMosaic", "SliceNormalVector", "B_value")


def csa_header(values: Mapping[str, Sequence[object]]) -> bytes:
    """Return a CSA2 header with the given tags."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(values), 77)]
    for name, items in values.items():
        parts.append(struct.pack("<64si4s3i", name.encode(), len(items), b"FD\0\0", 0, len(items), 77))
        for item in items:
            text = str(item).encode() + b"\0"
            parts.append(struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4))
    return b"".join(parts)


def write_mosaic(
    path: Path,
    voxels: np.ndarray,
    *,
    normal: Sequence[float] = (0, 0, 1),
    csa: bool = True,
    acquisition: int = 1,
    change: Callable[[Dataset], None] = lambda dataset: None,
    **series: object,
) -> Path:
    """Write one volume as a Siemens mosaic.

    Args:
        path: File to write.
        voxels: (Z, Y, X) stored values; slice k lies k spacings along ``normal``.
        normal: Slice normal in the CSA header.
        csa: False for the newer private tag instead of a CSA header.
        acquisition: Value of AcquisitionNumber.
        change: Function called with the dataset before writing.
        **series: Settings of :func:`write_series`; ``origin_mm`` is that of the first slice.
    """
    count, rows, columns = voxels.shape
    tiles = int(np.ceil(np.sqrt(count)))
    mosaic = np.zeros((tiles * rows, tiles * columns), voxels.dtype)
    for k, plane in enumerate(voxels):
        row, column = divmod(k, tiles)
        mosaic[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = plane
    spacing = series.setdefault("spacing_mm", (2.0, 2.0, 3.0))
    along_x, along_y, _ = np.asarray(series.get("direction", np.eye(3)), dtype=float)
    shift_mm = along_x * spacing[0] * (tiles - 1) * columns / 2 + along_y * spacing[1] * (tiles - 1) * rows / 2
    series["origin_mm"] = tuple(np.asarray(series.get("origin_mm", (-20.0, -30.0, 5.0))) - shift_mm)
    scratch = path.parent / f".{path.name}"
    written = write_series(
        scratch,
        mosaic[None],
        modality="MR",
        slope=None,
        intercept=None,
        image_type=("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"),
        **series,
    )[0]
    dataset = dcmread(written)
    written.unlink()
    scratch.rmdir()
    dataset.Manufacturer = "SIEMENS"
    dataset.AcquisitionNumber = dataset.InstanceNumber = acquisition
    dataset.SpacingBetweenSlices = spacing[2]
    if csa:
        block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        header = {"NumberOfImagesInMosaic": [count], "SliceNormalVector": list(normal)}
        block.add_new(0x08, "CS", "IMAGE NUM 4")
        block.add_new(0x10, "OB", csa_header(header))
    else:
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", count)
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path
