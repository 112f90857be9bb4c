"""Synthetic DICOM series like those of a scanner."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    generate_uid,
)

Coding = Literal["explicit", "implicit", "deflated", "rle", "jpegls", "jpeg2000", "jpeg"]
Change = Callable[[Dataset, int], None]

PATIENT = "Müller-Größe^Jürgen"
PATIENT_NUMBER = "471108150042"
"""Patient number, too long to occur in a random UID by chance."""
AXIAL = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
"""Directions of columns, rows and slices (LPS): the rows of this matrix are axes x, y and z."""
CORONAL = ((1, 0, 0), (0, 0, -1), (0, 1, 0))
SAGITTAL = ((0, 1, 0), (0, 0, -1), (-1, 0, 0))

_STORAGE = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
_SYNTAX = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
    "jpeg2000": JPEG2000Lossless,
    "jpeg": JPEGLosslessSV1,
}


def ramp(size: tuple[int, int, int] = (20, 16, 8), seed: int = 0) -> np.ndarray:
    """Return stored values of which neighbours differ: (Z, Y, X) int16; ``size`` is x, y, z."""
    x, y, z = size
    noise = np.random.default_rng(seed).integers(0, 40, (z, y, x))
    return (noise + 10 * np.arange(x) + 20 * np.arange(y)[:, None] + 50 * np.arange(z)[:, None, None]).astype(np.int16)


def write_series(
    folder: Path,
    voxels: np.ndarray | None = None,
    *,
    spacing_mm: tuple[float, float, float] = (0.8, 0.7, 2.5),
    origin_mm: tuple[float, float, float] = (-100.0, 50.5, -300.25),
    direction: Sequence[Sequence[float]] = AXIAL,
    modality: str = "CT",
    description: str = "Abdomen 2.5",
    patient_name: str = PATIENT,
    patient_id: str = f"PID-{PATIENT_NUMBER}-Müller",
    study_uid: str | None = None,
    series_uid: str | None = None,
    frame_uid: str | None = None,
    series_number: int = 3,
    slope: float | None = 1.0,
    intercept: float | None = -1024.0,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    coding: Coding = "explicit",
    name: str = "IM{number:05d}",
    change: Change | None = None,
) -> list[Path]:
    """Write one file per slice and return them in the order of slices.

    Args:
        folder: Folder of the files; created if missing.
        voxels: (Z, Y, X) int16 or uint16 stored values. Default: :func:`ramp`. Rescaled values are
            ``slope * stored + intercept``.
        spacing_mm: Spacing along x, y and z of the image.
        origin_mm: Position of the first voxel, LPS.
        direction: Unit vectors of x, y and z of the image, LPS.
        modality: Value of Modality.
        description: Value of SeriesDescription.
        patient_name: Value of PatientName.
        patient_id: Value of PatientID.
        study_uid: StudyInstanceUID. Default: a new one.
        series_uid: SeriesInstanceUID. Default: a new one.
        frame_uid: FrameOfReferenceUID. Default: a new one.
        series_number: Value of SeriesNumber.
        slope: RescaleSlope; None for no tag.
        intercept: RescaleIntercept; None for no tag.
        image_type: Values of ImageType.
        coding: Transfer syntax.
        name: Name of a file; ``number`` is shuffled, so that names do not follow the slices.
        change: Function called with the dataset and the index k of each slice before writing.
    """
    voxels = ramp() if voxels is None else voxels
    folder.mkdir(parents=True, exist_ok=True)
    study_uid, series_uid, frame_uid = (uid or generate_uid() for uid in (study_uid, series_uid, frame_uid))
    along_x, along_y, along_z = (np.asarray(axis, dtype=float) for axis in direction)
    numbers = np.random.default_rng(len(voxels)).permutation(len(voxels))
    paths = []
    for k, plane in enumerate(voxels):
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.ImageType = list(image_type)
        dataset.SOPClassUID = _STORAGE.get(modality, MRImageStorage)
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240229"
        dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
        dataset.AccessionNumber = "ACC-0815"
        dataset.Modality = modality
        dataset.Manufacturer = "Synthetic"
        dataset.StudyDescription = "Studie Müller"
        dataset.SeriesDescription = description
        dataset.ReferringPhysicianName = "Schröder^Änne"
        dataset.PatientName = patient_name
        dataset.PatientID = patient_id
        dataset.PatientBirthDate = "19501231"
        dataset.PatientSex = "M"
        dataset.PatientPosition = "HFS"
        dataset.StudyInstanceUID = study_uid
        dataset.SeriesInstanceUID = series_uid
        dataset.StudyID = "1"
        dataset.SeriesNumber = series_number
        dataset.AcquisitionNumber = 1
        dataset.InstanceNumber = k + 1
        dataset.FrameOfReferenceUID = frame_uid
        dataset.PositionReferenceIndicator = ""
        dataset.ImagePositionPatient = [f"{mm:.8g}" for mm in np.asarray(origin_mm) + k * spacing_mm[2] * along_z]
        dataset.ImageOrientationPatient = [f"{component:.8g}" for component in (*along_x, *along_y)]
        dataset.PixelSpacing = [f"{spacing_mm[1]:.8g}", f"{spacing_mm[0]:.8g}"]  # rows' distance first
        dataset.SliceThickness = f"{spacing_mm[2]:.8g}"
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = int(voxels.dtype == np.int16)
        if slope is not None:
            dataset.RescaleSlope = f"{slope:.10g}"
        if intercept is not None:
            dataset.RescaleIntercept = f"{intercept:.10g}"
        dataset.add_new((0x0009, 0x0010), "LO", "SYNTHETIC PRIVATE")
        dataset.add_new((0x0009, 0x1001), "LO", "Geheim: Müller")
        dataset.PixelData = plane.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.TransferSyntaxUID = _SYNTAX[coding]
        if coding in ("jpeg2000", "jpeg"):
            dataset.PixelData = _encoded_by_gdcm(plane, coding)
        if change is not None:
            change(dataset, k)
        if coding in ("rle", "jpegls"):
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.compress(_SYNTAX[coding], generate_instance_uid=False)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or generate_uid()
        path = folder / name.format(number=int(numbers[k]) + 1)
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _encoded_by_gdcm(plane: np.ndarray, coding: str) -> bytes:
    """Return the encapsulated pixel data of one slice, losslessly encoded by GDCM."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "slice.dcm"
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(coding.upper())
        writer.SetFileName(str(path))
        writer.Execute(sitk.GetImageFromArray(plane[None]))
        written = dcmread(path)
    assert written.file_meta.TransferSyntaxUID == _SYNTAX[coding]
    return written.PixelData if written.PixelData[:4] == b"\xfe\xff\x00\xe0" else encapsulate([written.PixelData])
