"""Both stages of a cascade by stock commands, with our trainer on nnU-Net's own plan."""

from __future__ import annotations

import json

import pytest

from tests.end_to_end.test_datasets import unchanged, variant
from tests.end_to_end.workplace import Workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CPU = ("-device", "cpu")
OURS = ("-tr", "AnatomixTrainer", "-f", "all", *CPU, "-npp", "1", "-nps", "1")


def test_a_cascade_trains_and_predicts(data_root, tmp_path, weights_file):
    dataset = variant(data_root / "nnUNet_raw" / "Dataset901_Hippocampus", tmp_path / "made", 2, unchanged, unchanged)
    place = Workplace(tmp_path, dataset, weights_file)
    place.run("nnUNetv2_plan_and_preprocess", "-d", "901", "-c", "3d_fullres", "--no_pp", "-npfp", "1")
    file = place.preprocessed / place.name / "nnUNetPlans.json"
    plan = json.loads(file.read_text())
    # What nnU-Net plans for scans that are larger than these.
    full = plan["configurations"]["3d_fullres"]
    plan["configurations"] |= {
        "3d_lowres": full
        | {"data_identifier": "nnUNetPlans_3d_lowres", "spacing": [2.0, 2.0, 2.0], "next_stage": "3d_cascade_fullres"},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    file.write_text(json.dumps(plan))
    place.run("nnUNetv2_preprocess", "-d", "901", "-c", "3d_lowres", "3d_fullres", "-np", "1", "1")
    for stage in ("3d_lowres", "3d_cascade_fullres"):
        place.run("nnUNetv2_train", "901", stage, "all", "-tr", "AnatomixTrainer", *CPU, ANATOMIX_ITERATIONS="2")
    log = next(place.results.rglob("*3d_cascade_fullres/fold_all/training_log*")).read_text()
    assert "beyond the image channels at 0" in log
    first, second = tmp_path / "first", tmp_path / "second"
    place.run("nnUNetv2_predict", "-i", dataset / "imagesTs", "-o", first, "-d", "901", "-c", "3d_lowres", *OURS)
    source = ("-i", dataset / "imagesTs", "-o", second, "-prev_stage_predictions", first)
    place.run("nnUNetv2_predict", *source, "-d", "901", "-c", "3d_cascade_fullres", *OURS)
    assert len(list(second.glob("*.nii.gz"))) == 1
