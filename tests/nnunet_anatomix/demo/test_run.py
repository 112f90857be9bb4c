"""Demo: anatomy, dataset, figure, and errors of failing commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.demo import run as demo
from nnunet_anatomix.demo.anatomy import ORGANS, SHAPE, make_subject
from nnunet_anatomix.demo.pictures import draw_cases
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import InUse, hold_lock


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return (2 * (a & b).sum() / (a.sum() + b.sum())).item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_subjects_share_an_anatomy_and_differ_in_shape_and_contrast(seed):
    first, second = make_subject(seed, 0), make_subject(seed, 1)
    assert first.image.shape == first.labels.shape == SHAPE
    for label in range(1, len(ORGANS) + 1):
        overlap = dice(first.labels == label, second.labels == label)
        assert 0.1 < overlap < 0.97, ORGANS[label - 1]
    means = np.array(
        [
            [subject.image[subject.labels == label].mean().item() for label in range(1, len(ORGANS) + 1)]
            for subject in (first, second)
        ]
    )
    assert np.abs(means[0] - means[1]).max() > 50
    again = make_subject(seed, 0)
    assert torch.equal(first.image, again.image) and torch.equal(first.labels, again.labels)


def test_the_dataset_is_in_nnunet_format(tmp_path):
    demo.make_dataset(tmp_path, seed=0)
    described = json.loads((tmp_path / "dataset.json").read_text())
    assert described["numTraining"] == len(list((tmp_path / "labelsTr").iterdir())) == 3
    assert len(list((tmp_path / "labelsTs").iterdir())) == 2
    for folder in ("Tr", "Ts"):
        for label_file in (tmp_path / f"labels{folder}").iterdir():
            image = sitk.ReadImage(
                str(tmp_path / f"images{folder}" / label_file.name.replace(".nii.gz", "_0000.nii.gz"))
            )
            labels = sitk.ReadImage(str(label_file))
            assert image.GetSize() == labels.GetSize() and image.GetSpacing() == labels.GetSpacing()
            assert set(np.unique(sitk.GetArrayFromImage(labels))) == set(described["labels"].values())


def test_the_dataset_alone_needs_an_empty_folder(tmp_path):
    made = demo.make_demo_data(tmp_path / "new", seed=0)
    assert made == tmp_path / "new" / "nnUNet_raw" / demo.DATASET
    assert len(list((made / "imagesTr").iterdir())) == demo.TRAINING_CASES
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="not empty"):
        demo.make_demo_data(tmp_path / "new", seed=0)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_other_content_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="other than an earlier demo"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_command_that_fails_is_named_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "DATASET_ID", 998)  # there is no such dataset in the demo's folder
    with pytest.raises(CommandFailed, match="'nnunet-anatomix' ended with exit code 1"):
        demo.run_demo(tmp_path / "demo", device="cpu")
    assert "$ nnunet-anatomix plan -d 998" in (tmp_path / "demo" / "log.txt").read_text()


def test_labels_keep_their_colours_in_the_figure(tmp_path):
    files = []
    for name, label in (("scan", 0), ("truth", 2), ("prediction", 0)):
        volume = (
            np.random.default_rng(0).random((6, 8, 10), np.float32)
            if name == "scan"
            else np.full((6, 8, 10), label, np.uint8)
        )
        files.append(tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(files[-1]))
    draw_cases(tmp_path / "case.png", {"case": tuple(files)})
    assert (tmp_path / "case.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals and process groups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_demo_stops_its_training(tmp_path, number):
    """Stop a real training and check that none of nnU-Net's worker processes survives."""
    out = tmp_path / "demo"
    options = ["--out", str(out), "--iterations", "500", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "nnunet_anatomix", "demo", *options])
    deadline = time.monotonic() + 400
    while "Epoch 0" not in ((out / "log.txt").read_text() if (out / "log.txt").exists() else ""):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3
    process.send_signal(number)
    process.wait(60)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive and (number == signal.SIGKILL or not (out / ".anatomix.lock").exists())


def test_two_demos_in_one_folder_at_once_are_refused(tmp_path):
    with hold_lock(tmp_path / "demo"):
        for run in (demo.run_demo, demo.make_demo_data):
            with pytest.raises(InUse, match="is in use by process"):
                run(tmp_path / "demo")


@pytest.mark.slow
def test_the_demo_segments(tmp_path):
    scores = demo.run_demo(tmp_path / "demo")
    assert scores.keys() == set(ORGANS) and np.mean(list(scores.values())) > demo.LEAST_DICE
    assert {"report.md", "overview.png", "dice.csv", "predictions"} <= {
        path.name for path in (tmp_path / "demo").iterdir()
    }
