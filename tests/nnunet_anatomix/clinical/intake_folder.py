"""Synthetic output folders of ``intake`` and ``nnUNetv2_predict``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import dcmread

from nnunet_anatomix.clinical.cases import CaseSource, ChannelSource, image_file, write_source
from pretraining.imaging.grids import Grid

LABELS = {"background": 0, "liver": 1, "kidney_left": 2, "Größe 3": 3}


def take_series(
    intake: Path, root: Path, files: Sequence[Path], *, case: str = "case_001", channel: str = "CT"
) -> Grid:
    """Write the intake of one DICOM series, with random voxels.

    Args:
        intake: Folder to write.
        root: Folder of the series, SRC.
        files: DICOM files in the order of slices.
        case: Name of the case.
        channel: Name of the channel.
    """
    headers = [dcmread(path, stop_before_pixels=True) for path in files]
    first, second = headers[0], headers[1]
    along_x, along_y = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    step = np.array(second.ImagePositionPatient, dtype=float) - np.array(first.ImagePositionPatient, dtype=float)
    spacing_z = float(np.linalg.norm(step))
    direction = np.column_stack([along_x, along_y, step / spacing_z])
    size = (int(first.Columns), int(first.Rows), len(files))
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-200, 300, size[::-1]).astype(np.int16))
    image.SetSpacing((float(first.PixelSpacing[1]), float(first.PixelSpacing[0]), spacing_z))
    image.SetOrigin(tuple(map(float, first.ImagePositionPatient)))
    image.SetDirection(direction.ravel().tolist())
    source = ChannelSource(
        channel=0,
        name=channel,
        kind="dicom",
        root=str(root),
        files=tuple(path.relative_to(root).as_posix() for path in files),
        series_uid=str(first.SeriesInstanceUID),
        study_uid=str(first.StudyInstanceUID),
    )
    return _take(intake, image, source, case)


def take_image(intake: Path, path: Path, *, case: str = "case_001", channel: str = "MRI") -> Grid:
    """Write the intake of a scan that is not DICOM."""
    source = ChannelSource(channel=0, name=channel, kind="image", root=str(path.parent), files=(path.name,))
    return _take(intake, sitk.ReadImage(str(path)), source, case)


def _take(intake: Path, image: sitk.Image, source: ChannelSource, case: str) -> Grid:
    grid = Grid.of(image)
    written = image_file(intake, case, 0, ".nii.gz")
    written.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(written))
    write_source(intake, CaseSource(case=case, file_ending=".nii.gz", channels=(source,), grid=grid))
    return grid


def write_prediction(
    folder: Path, image: sitk.Image, *, case: str = "case_001", labels: dict | None = None, **more: object
) -> Path:
    """Write a prediction and the JSON files that nnU-Net writes next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "channel_names": {"0": "CT"},
        "labels": labels or LABELS,
        "file_ending": ".nii.gz",
        "numTraining": 1,
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "plans.json").write_text(
        json.dumps({"plans_name": "nnUNetAnatomixPlans", "dataset_name": "Dataset001_Test"})
    )
    (folder / "predict_from_raw_data_args.json").write_text("{}")
    path = folder / f"{case}.nii.gz"
    sitk.WriteImage(image, str(path))
    return path
