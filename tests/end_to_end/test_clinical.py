"""From a folder of scans to delivered segmentations: intake, nnUNetv2_predict, deliver."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from nnunet_anatomix.clinical.cases import read_source
from tests.end_to_end.workplace import Workplace
from tests.in_process import run_here
from tests.nnunet_anatomix.clinical.intake.test_intake import IDENTIFYING, pacs_dump
from tests.process_server import run_python

LABELS = {"background": 0, "liver": 1, "spleen": 2}


def command(*arguments: object) -> str:
    """What a command printed; it must succeed."""
    run = [sys.executable, "-m", "nnunet_anatomix", *arguments]
    done = run_python(run, env=os.environ | {"PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def model_in(folder: Path) -> Path:
    folder.mkdir()
    described = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def segmented(hounsfield: np.ndarray) -> np.ndarray:
    """Stands in for a network: what is brighter than water, and brighter still."""
    return (hounsfield > 20).astype(np.uint8) + (hounsfield > 120)


def predict(images: Path, predictions: Path, model: Path) -> None:
    """What nnUNetv2_predict would leave, by a threshold."""
    predictions.mkdir()
    shutil.copy(model / "dataset.json", predictions)
    for path in images.glob("*_0000.nii.gz"):
        image = sitk.ReadImage(str(path))
        labels = sitk.GetImageFromArray(segmented(sitk.GetArrayFromImage(image)))
        labels.CopyInformation(image)
        sitk.WriteImage(labels, str(predictions / path.name.replace("_0000", "")))


def assert_delivered(intake: Path, delivered: Path, expected) -> None:
    """Assert that all deliveries say ``expected(file of a slice, case, k)`` of every slice."""
    with (delivered / "volumes.csv").open(newline="", encoding="utf-8") as file:
        volumes = {(row["case"], row["structure"]): float(row["volume_ml"]) for row in csv.DictReader(file)}
    links = sorted((intake / "sources").glob("*.json"))
    assert len(volumes) == 2 * len(links) > 0
    for path in links:
        source, segmentation = (
            read_source(path),
            highdicom.seg.segread(delivered / "segmentations" / f"{path.stem}.dcm"),
        )
        nifti = sitk.ReadImage(str(delivered / "nifti" / f"{path.stem}.nii.gz"))
        labels = np.stack([expected(file, path.stem, k) for k, file in enumerate(source.channels[0].paths())])
        instances = [
            dcmread(file, stop_before_pixels=True).file_meta.MediaStorageSOPInstanceUID
            for file in source.channels[0].paths()
        ]
        assert np.array_equal(sitk.GetArrayFromImage(nifti), labels)
        for number, name in enumerate(list(LABELS)[1:], 1):
            found = segmentation.get_pixels_by_source_instance(
                instances, segment_numbers=[number], assert_missing_frames_are_empty=True
            )
            assert np.array_equal(found[..., 0], labels == number)
            assert volumes[path.stem, name] == pytest.approx(
                (labels == number).sum() * np.prod(nifti.GetSpacing()) / 1000, rel=1e-5
            )
            assert segmentation.get_segment_description(number).segment_label == name
        assert (delivered / "overviews" / f"{path.stem}.png").stat().st_size > 10_000


def test_a_real_series(data_root, tmp_path):
    model, intake, predictions, delivered = (
        model_in(tmp_path / "model"),
        tmp_path / "intake",
        tmp_path / "pred",
        tmp_path / "out",
    )
    command("intake", data_root / "dicom", intake, "-m", model, "--workers", "1")
    predict(intake / "images", predictions, model)
    said = command("deliver", predictions, delivered, "--intake", intake)
    assert "case_001: 2 of 2 structures" in said
    # Every slice as GDCM decodes it, without what intake made of it.
    assert_delivered(
        intake, delivered, lambda file, *_: segmented(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0])
    )


def test_a_pacs_dump(tmp_path):
    dump, model = tmp_path / "Export", model_in(tmp_path / "model")
    pacs_dump(dump)
    intake, predictions, delivered = tmp_path / "intake", tmp_path / "pred", tmp_path / "out"
    taken = run_here("nnunet-anatomix", "intake", dump, intake, "-m", model, "--workers", "1")
    predict(intake / "images", predictions, model)
    given = run_here("nnunet-anatomix", "deliver", predictions, delivered, "--intake", intake, "-m", model)
    said = taken.stdout + taken.stderr + given.stdout + given.stderr
    assert taken.returncode == given.returncode == 0, said
    assert said.count(" of 2 structures, SEG, NIfTI, overview") == 4
    assert_delivered(
        intake, delivered, lambda file, *_: segmented(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0])
    )
    tables = "".join(
        path.read_text(encoding="utf-8") for path in delivered.rglob("*") if path.suffix in (".csv", ".json")
    )
    names = "".join(str(path.relative_to(tmp_path)) for folder in (intake, delivered) for path in folder.rglob("*"))
    assert not [word for word in IDENTIFYING if word in said + tables + names]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trained_model_and_stock_prediction(data_root, tmp_path):
    """Train briefly on one labelled scan, then take its DICOM folder through all commands."""
    dataset = model_in(tmp_path / "Dataset905_Abdomen")
    command("intake", data_root / "dicom", tmp_path / "first", "-m", dataset, "--workers", "1")
    image = sitk.ReadImage(str(tmp_path / "first" / "images" / "case_001_0000.nii.gz"))
    organs = sitk.Resample(
        sitk.ReadImage(str(data_root / "dicom" / "ct_series_seg.nii.gz")),
        image,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    labels = (organs == 5) + 2 * (organs == 1)
    for folder, name, written in (("imagesTr", "train_0000", image), ("labelsTr", "train", labels)):
        (dataset / folder).mkdir()
        sitk.WriteImage(written, str(dataset / folder / f"{name}.nii.gz"))

    place = Workplace(tmp_path, dataset, tmp_path)
    del place.variables["ANATOMIX_WEIGHTS"]  # the bundled ones
    place.run("nnUNetv2_plan_and_preprocess", "-d", "905", "-c", "3d_fullres", "--no_pp", "-npfp", "1")
    file = place.preprocessed / place.name / "nnUNetPlans.json"
    plan = json.loads(file.read_text())
    # Coarse, so that training and prediction take seconds.
    plan["configurations"]["3d_fullres"] |= {"spacing": [6.0, 6.0, 6.0], "patch_size": [16, 64, 64], "batch_size": 1}
    file.write_text(json.dumps(plan))
    place.run("nnUNetv2_preprocess", "-d", "905", "-c", "3d_fullres", "-np", "1")
    place.run(
        "nnUNetv2_train",
        "905",
        "3d_fullres",
        "all",
        "-tr",
        "AnatomixTrainer",
        "-device",
        "cpu",
        ANATOMIX_ITERATIONS="12",
        nnUNet_n_proc_DA="0",
    )

    intake, predictions, delivered = tmp_path / "intake", tmp_path / "pred", tmp_path / "out"
    place.run("nnunet-anatomix", "intake", data_root / "dicom", intake, "-m", "905")
    model = ("-d", "905", "-c", "3d_fullres", "-f", "all", "-tr", "AnatomixTrainer", "-device", "cpu")
    place.run("nnUNetv2_predict", "-i", intake / "images", "-o", predictions, *model, "-npp", "1", "-nps", "1")
    place.run("nnunet-anatomix", "deliver", predictions, delivered, "--intake", intake)
    predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(predictions / "case_001.nii.gz")))
    assert predicted.any()
    assert_delivered(intake, delivered, lambda _, case, k: predicted[k])
    described = highdicom.seg.segread(delivered / "segmentations" / "case_001.dcm").get_segment_description(1)
    assert (
        described.algorithm_identification.source == "Dataset905_Abdomen"
        and described.segmented_property_type.meaning == "Liver"
    )
