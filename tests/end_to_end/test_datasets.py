"""Every real dataset and its variants, by stock commands, with no flag but ``-d``.

Plan, preprocess, train, predict, evaluate.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.end_to_end.workplace import Workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def variant(
    original: Path,
    folder: Path,
    cases: int,
    change: Callable[[dict], None],
    relabel: Callable[[np.ndarray], np.ndarray],
) -> Path:
    """A copy of ``original`` with its first training and test ``cases`` and other labels."""
    made = folder / original.name
    description = json.loads((original / "dataset.json").read_text())
    change(description)
    for part, count in (("Tr", cases), ("Ts", 1)):
        (made / f"images{part}").mkdir(parents=True)
        (made / f"labels{part}").mkdir()
        for label in sorted((original / f"labels{part}").iterdir())[:count]:
            case = label.name.removesuffix(".nii.gz")
            for image in (original / f"images{part}").glob(f"{case}_????.nii.gz"):
                (made / f"images{part}" / image.name).symlink_to(image)
            image = sitk.ReadImage(str(label))
            array = sitk.GetImageFromArray(relabel(sitk.GetArrayFromImage(image)))
            array.CopyInformation(image)
            sitk.WriteImage(array, str(made / f"labels{part}" / label.name))
    description["numTraining"] = cases
    (made / "dataset.json").write_text(json.dumps(description))
    return made


def unchanged(value):
    return value


def with_regions(description: dict) -> None:
    description |= {
        "labels": {"background": 0, "brain": [1, 2, 3], "matter": [2, 3], "cerebellum": 3},
        "regions_class_order": [1, 2, 3],
    }


def with_ignore(description: dict) -> None:
    description["labels"] = {"background": 0, "white_matter": 1, "ventricles": 2, "ignore": 3}


def up_to(greatest: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda labels: np.minimum(labels, greatest)


@pytest.mark.parametrize(
    "name, cases, change, relabel, flags",
    [
        ("Dataset901_Hippocampus", 3, unchanged, unchanged, ()),
        ("Dataset902_FetalBrain", 3, unchanged, unchanged, ()),
        ("Dataset903_LimbSarcoma", 5, unchanged, unchanged, ()),
        ("Dataset901_Hippocampus", 1, unchanged, unchanged, ()),
        # A small memory target makes the patches small: what is tested here are the labels.
        ("Dataset902_FetalBrain", 2, with_regions, up_to(3), ("-gpu_memory_target", "1.5")),
        ("Dataset902_FetalBrain", 2, with_ignore, up_to(3), ("-gpu_memory_target", "1.5")),
    ],
    ids=["901", "902", "903", "one case", "regions", "ignore label"],
)
def test_a_dataset_goes_all_the_way(name, cases, change, relabel, flags, data_root, tmp_path, weights_file):
    dataset = variant(data_root / "nnUNet_raw" / name, tmp_path / "made", cases, change, relabel)
    place = Workplace(tmp_path, dataset, weights_file)
    number, model = name[7:10], ("-tr", "AnatomixTrainer", "-p", "nnUNetAnatomixPlans")
    place.run("nnunet-anatomix", "plan-and-preprocess", "-d", number, *flags)
    place.run("nnUNetv2_train", number, "3d_fullres", "0", *model, "-device", "cpu", ANATOMIX_ITERATIONS="2")
    predictions = tmp_path / "predictions"
    source = ("-i", dataset / "imagesTs", "-o", predictions)
    place.run(
        "nnUNetv2_predict",
        *source,
        "-d",
        number,
        "-c",
        "3d_fullres",
        "-f",
        "0",
        *model,
        "-device",
        "cpu",
        "-npp",
        "1",
        "-nps",
        "1",
    )
    described = (predictions / "dataset.json", "-pfile", predictions / "plans.json")
    place.run("nnUNetv2_evaluate_folder", dataset / "labelsTs", predictions, "-djfile", *described)
    assert len(json.loads((predictions / "summary.json").read_text())["metric_per_case"]) == 1
    made, given = (sitk.ReadImage(str(next(folder.glob("*.nii.gz")))) for folder in (predictions, dataset / "imagesTs"))
    assert made.GetSize() == given.GetSize() and made.GetDirection() == given.GetDirection()
    shutil.rmtree(tmp_path / "preprocessed")
