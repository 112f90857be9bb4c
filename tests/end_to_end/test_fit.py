"""Two scans of one's own: ``fit``, killed twice, then ``nnUNetv2_predict``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.workplace import Workplace

NAME = "Dataset555_Mine"
BUNDLED = ""
"""Value of ``ANATOMIX_WEIGHTS`` for the bundled weights."""


@pytest.fixture
def workplace(data_root, tmp_path) -> Workplace:
    """Return a raw dataset of two training scans of Dataset901, under names of its own."""
    source, mine = data_root / "nnUNet_raw" / "Dataset901_Hippocampus", tmp_path / NAME
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (mine / part).mkdir(parents=True)
        for number, path in enumerate(sorted((source / part).iterdir())[:2]):
            shutil.copy(path, mine / part / f"mine_{number}{ending}")
    description = json.loads((source / "dataset.json").read_text())
    (mine / "dataset.json").write_text(json.dumps(description | {"numTraining": 2}))
    place = tmp_path / "place"
    place.mkdir()
    return Workplace(place, mine, Path(BUNDLED))


def kill_when(condition: Callable[[], bool], workplace: Workplace, command: tuple) -> None:
    """Start a command and kill it, with SIGKILL, as soon as a condition holds."""
    process = workplace.start(*command, ANATOMIX_WEIGHTS=BUNDLED)
    deadline = time.monotonic() + 1500
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "it ended or hung before it was killed"
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_two_commands_lead_from_two_scans_to_predictions_although_killed_twice(workplace, data_root):
    command = ("nnunet-anatomix", "fit", "-d", "555", "--iterations", "20", "--max-patch", "32", "--device", "cpu")
    fit = workplace.results / NAME / "fit"

    def has_checkpoint(pattern: str) -> bool:
        return any(fit.glob(f"{pattern}/checkpoint_latest.pth"))

    kill_when(lambda: has_checkpoint("rounds/20/*/*/fold_1"), workplace, command)
    first = json.loads((fit / "rounds" / "20" / "fold_0.json").read_text())
    kill_when(lambda: has_checkpoint("final/20/*/*/fold_all"), workplace, command)
    output = workplace.run(*command, ANATOMIX_WEIGHTS=BUNDLED)
    assert json.loads((fit / "rounds" / "20" / "fold_0.json").read_text()) == first, "not trained again"
    logs = list(fit.glob("final/20/*/*/fold_all/training_log*.txt"))
    assert len(logs) == 2 and "Epoch 0 " not in max(logs).read_text(), "resumed from the checkpoint"
    assert "expected on a new scan: Dice 0." in output
    predict(workplace, output, new_scans(workplace, data_root))


def new_scans(workplace: Workplace, data_root: Path) -> Path:
    """Copy two test scans of Dataset901 into a folder."""
    scans = workplace.folder / "scans"
    scans.mkdir()
    for scan in sorted((data_root / "nnUNet_raw" / "Dataset901_Hippocampus" / "imagesTs").iterdir())[:2]:
        shutil.copy(scan, scans)
    return scans


def predict(workplace: Workplace, output: str, scans: Path) -> None:
    """Run the command that a fit prints for the model of all scans."""
    (line,) = [line for line in output.splitlines() if "nnUNetv2_predict" in line and "-f all" in line]
    predictions = workplace.folder / "predictions"
    words = (
        line[line.index("nnUNetv2_predict") :].replace("IMAGES", str(scans)).replace("PREDICTIONS", str(predictions))
    )
    workplace.run(*words.split(), "-npp", "1", "-nps", "1")
    assert len(list(predictions.glob("*.nii.gz"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_two_unlabelled_scans_join_a_fit_that_is_killed_on_the_way(workplace, data_root):
    scans = new_scans(workplace, data_root)
    command = ("nnunet-anatomix", "fit", "-d", "555", "--iterations", "20", "--max-patch", "32", "--device", "cpu")
    command += ("--unlabelled", str(scans))
    fit = workplace.results / NAME / "fit"
    latest = "enlarged/rounds/20/*/*/fold_1/checkpoint_latest.pth"
    kill_when(lambda: any(fit.glob(latest)), workplace, command)
    output = workplace.run(*command, ANATOMIX_WEIGHTS=BUNDLED)
    assert "with unlabelled scans: Dice 0." in output
    logs = [path.read_text() for path in fit.glob("enlarged/rounds/20/*/*/fold_*/training_log*.txt")]
    assert len(logs) == 3 and all("training also on 2 unlabelled scans" in log for log in logs)
    rows = (fit / "fit.csv").read_text()
    assert rows.count(",yes") == rows.count(",no") == 4
    predict(workplace, output, scans)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_stock_commands_train_and_predict_a_plan_with_unlabelled_scans(workplace, data_root):
    scans = new_scans(workplace, data_root)
    workplace.run("nnunet-anatomix", "plan-and-preprocess", "-d", "555", "--iterations", "2")
    output = workplace.run("nnunet-anatomix", "enlarge", "-d", "555", "--unlabelled", str(scans), "--device", "cpu")
    (line,) = [line for line in output.splitlines() if "nnUNetv2_train" in line]
    workplace.run(*line[line.index("nnUNetv2_train") :].split(), "-device", "cpu", ANATOMIX_WEIGHTS=BUNDLED)
    model = ("-d", "555", "-c", "3d_fullres", "-f", "all", "-tr", "AnatomixTrainer", "-p", line.split()[-1])
    out = workplace.folder / "predicted"
    workplace.run("nnUNetv2_predict", "-i", str(scans), "-o", str(out), *model, "-device", "cpu", "-npp", "1")
    assert len(list(out.glob("*.nii.gz"))) == 2
