"""Scores of segmentations: they equal those of MONAI and nnU-Net, and bad input is refused."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_hausdorff_distance
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_anatomix.scores.segmentation import CaseScore, evaluate_segmentation, markdown
from pretraining.common.errors import InputError

SPACING_MM = (0.8, 1.5, 3.0)


def boxes(seed: int) -> np.ndarray:
    """Return a random label map with labels 1 and 2, (Z, Y, X)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((9, 12, 15), dtype=np.uint8)
    labels[2:7, 2:6, 3:9], labels[3:8, 6:10, 4:12] = 1, 2
    return np.where(rng.uniform(size=labels.shape) < 0.1, np.roll(labels, 2, axis=2), labels)


def write(path: Path, labels: np.ndarray, spacing_mm: tuple[float, float, float] = SPACING_MM) -> None:
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(spacing_mm)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path) -> SimpleNamespace:
    """Return folders with three cases; the last prediction lacks label 2."""
    found = SimpleNamespace(
        predictions=tmp_path / "predictions", truth=tmp_path / "truth", out=tmp_path / "deep" / "out"
    )
    for case, ending in enumerate((".nii.gz", ".nrrd", ".mha")):
        prediction = boxes(case + 10)
        write(
            found.predictions / f"case.{case}{ending}",
            np.where(prediction == 2, 0, prediction) if case == 2 else prediction,
        )
        write(found.truth / f"case.{case}.nii.gz", boxes(case))
    return found


def lines(folders: SimpleNamespace) -> list[dict[str, str]]:
    with (folders.out / "cases.csv").open() as file:
        return list(csv.DictReader(file))


def describe(folder: Path, labels: dict) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))


def test_scores_equal_those_of_nnunet_and_monai(folders):
    text = evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)
    assert text == (folders.out / "table.md").read_text(encoding="utf-8")
    assert [(line["case"], line["label"]) for line in lines(folders)] == [
        (f"case.{case}", label) for case in range(3) for label in "12"
    ]
    for line in lines(folders):
        (path,) = folders.predictions.glob(f"{line['case']}.*")
        true, label = folders.truth / f"{line['case']}.nii.gz", int(line["label"])
        metrics = compute_metrics(str(true), str(path), SimpleITKIO(), [1, 2])["metrics"]
        assert float(line["dice"]) == pytest.approx(metrics[label]["Dice"], rel=1e-5)
        masks = [
            torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(file))) == label)[None, None]
            for file in (path, true)
        ]
        if masks[0].any():
            expected = compute_hausdorff_distance(
                *masks, include_background=True, percentile=95, spacing=SPACING_MM[::-1]
            )
            assert float(line["hd95_mm"]) == pytest.approx(expected.item(), rel=1e-5)
        else:
            assert line["dice"] == "0" and line["hd95_mm"] == "nan"


def test_the_table_has_means_over_cases():
    dice = {"a": (0.2, 0.8), "b": (0.4, float("nan")), "c": (0.9, 0.0)}
    scores = [
        CaseScore(case=case, label=label, dice=value, hd95_mm=2.0 if value > 0 else float("nan"))
        for case, values in dice.items()
        for label, value in zip(("front", "back"), values, strict=True)
    ]
    front, back, mean = (" ".join(line.split()) for line in markdown(scores).splitlines()[-3:])
    assert front.startswith("| front | 3 | 0.500 (0.1") and front.endswith("| 2.00 (0.00) | 0 |")
    assert back.startswith("| back | 2 | 0.400 (0.2") and back.endswith("| 2.00 (–) | 1 |")
    assert mean.startswith("| mean | 3 | 0.450 (0.0") and mean.endswith("| 2.00 (0.00) | 1 |")


@pytest.mark.parametrize("where", ["predictions", "truth"])
def test_labels_are_named_by_dataset_json(folders, where):
    describe(getattr(folders, where), {"background": 0, "front": 1, "whole": [1, 2], "nowhere": 5})
    evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)
    found = {line["label"]: line for line in lines(folders) if line["case"] == "case.0"}
    assert list(found) == ["front", "whole", "nowhere"]
    predicted, true = (boxes(seed) > 0 for seed in (10, 0))
    assert float(found["whole"]["dice"]) == pytest.approx(
        2 * (predicted & true).sum() / (predicted.sum() + true.sum()), rel=1e-5
    )
    assert float(found["front"]["dice"]) < 1 and found["nowhere"]["dice"] == "nan"


def test_ignored_voxels_are_not_scored(folders):
    describe(folders.truth, {"background": 0, "front": 1, "back": 2, "ignore": 3})
    for case in range(3):
        (path,) = folders.predictions.glob(f"case.{case}.*")
        prediction = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write(
            folders.truth / f"case.{case}.nii.gz", np.where(prediction != boxes(case), 3, boxes(case)).astype(np.uint8)
        )
    evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)
    scored = lines(folders)
    assert {line["label"] for line in scored} == {"front", "back"}
    assert all(line["dice"] in ("1", "nan") for line in scored) and any(line["dice"] == "1" for line in scored)


def test_other_grids_are_refused_and_nothing_is_written(folders):
    write(folders.truth / "case.1.nii.gz", boxes(1), (0.8, 1.5, 3.001))  # 0.008 mm over the whole grid
    with pytest.raises(InputError, match=r"case\.1\.nrrd is not on the grid of .*case\.1\.nii\.gz"):
        evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)
    assert not folders.out.exists()


def test_rounded_headers_are_the_same_grid(folders):
    write(folders.truth / "case.1.nii.gz", boxes(1), (0.8, 1.5, 3.0000001))
    evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)
    assert len(lines(folders)) == 6


def test_every_prediction_needs_a_truth_but_not_vice_versa(folders, caplog):
    write(folders.truth / "more.nii.gz", boxes(5))
    with caplog.at_level(logging.WARNING):
        evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)
    assert "1 cases of the truth have no prediction and are not scored: more" in caplog.text
    write(folders.predictions / "alone.nii.gz", boxes(6))
    with pytest.raises(InputError, match=r"1 of 4 predictions have no truth in .*: alone"):
        evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda folder: (folder / "case.0.nii.gz").write_bytes(b"torn"),
            r"case\.0\.nii\.gz: damaged|case\.0\.nii\.gz: truncated",
        ),
        (lambda folder: write(folder / "case.0.nii.gz", boxes(0) + np.float32(0.5)), "not whole"),
        (lambda folder: write(folder / "case.0.mha", boxes(0)), "belong to the same case"),
        (
            lambda folder: (folder / "dataset.json").write_text('{"labels": {"0": "background"}}'),
            "expected labels as names with a number",
        ),
        (lambda folder: (folder / "dataset.json").write_text('{"lab'), "cannot read"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "no predictions in"),
    ],
)
def test_damaged_files_are_refused(folders, damage, said):
    damage(folders.predictions)
    with pytest.raises(InputError, match=said) as refused:
        evaluate_segmentation(folders.predictions, folders.truth, out=folders.out)
    assert "\n" not in str(refused.value) and not folders.out.exists()


def test_a_missing_folder_is_refused(folders):
    with pytest.raises(InputError, match=r"no folder .*gone"):
        evaluate_segmentation(folders.predictions, folders.truth.with_name("gone"), out=folders.out)
