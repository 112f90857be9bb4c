"""Demo: anatomy, dataset, figure, and errors of failing commands."""

from __future__ import annotations

import json
import os
import shutil
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
from nnunet_anatomix.demo.dataset import DATASET, TRAINING_CASES, make_dataset, make_demo_data, make_pair
from nnunet_anatomix.demo.pictures import COLOURS, slices_with_every_label
from nnunet_anatomix.demo.report import Findings, write_report
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import InUse, hold_lock
from tests.docs.chromium import CHROMIUM, overflows


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return (2 * (a & b).sum() / (a.sum() + b.sum())).item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_subjects_share_an_anatomy_and_differ_in_shape_and_contrast(seed):
    first, second, other = make_subject(seed, 0), make_subject(seed, 1), make_subject(seed, 1, "T2")
    assert first.image.shape == first.labels.shape == SHAPE and len(ORGANS) == len(COLOURS) >= 6
    labels = range(1, len(ORGANS) + 1)
    for label in labels:
        assert (first.labels == label).sum() > 300, ORGANS[label - 1]
        assert 0.1 < dice(first.labels == label, second.labels == label) < 0.97, ORGANS[label - 1]
    assert torch.equal(second.labels, other.labels)
    of_contrast = [[one.image[one.labels == label].mean().item() for label in labels] for one in (first, second, other)]
    one, two, three = (np.argsort(means) for means in of_contrast)
    assert (one != three).any() and (two != three).any()  # another order of brightness: another contrast
    assert np.abs(np.subtract(*of_contrast[:2])).max() > 50
    again = make_subject(seed, 0)
    assert torch.equal(first.image, again.image) and torch.equal(first.labels, again.labels)


def test_the_dataset_is_in_nnunet_format(tmp_path):
    make_dataset(tmp_path, seed=0)
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
    made = make_demo_data(tmp_path / "new", seed=0)
    assert made == tmp_path / "new" / "nnUNet_raw" / DATASET
    assert len(list((made / "imagesTr").iterdir())) == TRAINING_CASES
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="not empty"):
        make_demo_data(tmp_path / "new", seed=0)
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
    assert "$ nnunet-anatomix plan-and-preprocess -d 998" in (tmp_path / "demo" / "log.txt").read_text()


@pytest.mark.parametrize("seed", [0, 1])
def test_few_slices_show_every_label(seed):
    labels = make_subject(seed, 3).labels.numpy().transpose(2, 1, 0)
    chosen = slices_with_every_label(labels)
    assert set(np.unique(labels[:, chosen])) == set(range(len(ORGANS) + 1)) and len(chosen) <= 3
    apart = np.zeros((4, 5, 4), np.uint8)
    apart[0, 1, 0], apart[0, 3, 0] = 1, 2
    assert slices_with_every_label(apart) == [1, 3]


def test_the_report_is_one_file_with_all_pictures_dice_and_commands(tmp_path):
    """Predictions are the truth for one start, and nothing for the other."""
    raw, pair = tmp_path / "raw", make_pair(tmp_path / "pair", seed=0)
    make_dataset(raw, seed=0)
    good, bad, moved = (tmp_path / name for name in ("good", "bad", "registration"))
    for path in (raw / "labelsTs").iterdir():
        truth = sitk.ReadImage(str(path))
        for folder, labels in ((good, truth), (bad, truth * 0)):
            folder.mkdir(exist_ok=True)
            sitk.WriteImage(labels, str(folder / path.name))
    moved.mkdir()
    shutil.copy(pair.fixed, moved / "moved.nii.gz")
    shutil.copy(pair.fixed_labels, moved / "moved_labels.nii.gz")
    findings = Findings.read(raw, {"pretrained": good, "from scratch": bad}, pair, moved)
    assert findings.mean_dice("pretrained") == 1.0 and findings.mean_dice("from scratch") == 0.0
    assert 0.2 < findings.mean_registered("before") < findings.mean_registered("after") == 1.0
    write_report(tmp_path, findings, iterations=3, seconds=1.0)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 and 'src="http' not in page
    assert all(f"</i>{organ}</span>" in page for organ in ORGANS)
    assert "nnunet-anatomix register --fixed ct.nii.gz" in page and "&lt;" not in page
    assert (tmp_path / "dice.csv").read_text().splitlines()[0] == "organ,pretrained,from scratch"
    for width in (1400, 400) if CHROMIUM else ():
        assert overflows(tmp_path, ["report.html"], width) == {"report.html": []}


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
        for run in (demo.run_demo, make_demo_data):
            with pytest.raises(InUse, match="is in use by process"):
                run(tmp_path / "demo")


@pytest.mark.slow
def test_the_demo_segments(tmp_path):
    scores = demo.run_demo(tmp_path / "demo")
    assert scores.keys() == set(ORGANS) and np.mean(list(scores.values())) > demo.LEAST_DICE
    assert {"report.html", "overview.png", "registration.png", "dice.csv", "registration"} <= {
        path.name for path in (tmp_path / "demo").iterdir()
    }
