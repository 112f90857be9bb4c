"""Fit with unlabelled scans, with faked nnU-Net commands and labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import nnunet_anatomix.fit.unlabelled as unlabelled_module
from nnunet_anatomix.enlarging.enlarge import Enlarger
from nnunet_anatomix.fit.fit import FitRequest, fit
from nnunet_anatomix.fit.folder import MODEL, PLANS
from pretraining.common.errors import CommandFailed, InputError
from tests.nnunet_anatomix.fit.small_commands import NAME, Commands
from tests.nnunet_anatomix.fit.test_fit import ON_CPU, commands, dataset, unlabelled  # noqa: F401

pytestmark = pytest.mark.usefixtures("dataset")


class FakeEnlarger(Enlarger):
    """Writes an enlarged plan, and remembers which networks took part."""

    networks: dict[str, str]

    def propagate(self) -> None: ...

    def enlarge(self, networks=None) -> Path:
        FakeEnlarger.networks = {name: folder.name for name, folder in networks.items()}
        assert all((folder / f"{case}.nii.gz").is_file() for folder in networks.values() for case in self.inputs)
        self.enlarged_plan.write_text(json.dumps(json.loads(self._plan.read_text())))
        return self.enlarged_plan

    def digest(self) -> str:
        return " ".join(self.inputs)


@pytest.fixture
def gaining(commands, monkeypatch) -> Commands:  # noqa: F811
    """Return fakes whose Dice is higher by .1 with unlabelled scans."""
    commands.gain = 0.1
    monkeypatch.setattr(unlabelled_module, "Enlarger", FakeEnlarger)
    return commands


def run(**changes) -> list[str]:
    return fit(FitRequest(**{**ON_CPU, **changes}))


def final(nnunet) -> str:
    return (nnunet.results / NAME / MODEL / "fold_all" / "checkpoint_final.pth").read_text()


def test_unlabelled_scans_are_kept_if_the_dice_rises(gaining, unlabelled, nnunet, caplog):  # noqa: F811
    with caplog.at_level("INFO"):
        lines = run(unlabelled=str(unlabelled))
    assert gaining.trainings() == ["0", "1"] * 4 + ["all"], "three rounds, one with unlabelled scans, and all"
    assert "with unlabelled scans: Dice 0.800" in caplog.text and "without: 0.700; kept" in caplog.text
    assert final(nnunet) == "network of 400 steps and unlabelled scans" and PLANS in lines[0]
    assert FakeEnlarger.networks == {"all": "all", "fold_0": "fold_0", "fold_1": "fold_1"}
    predicted = [command[command.index("-f") + 1 :][:2] for command in gaining.asked if "predict" in command[0]]
    assert predicted == [["0", "1"], ["0", "-tr"], ["1", "-tr"]], "each fold by its own network alone"
    folder = nnunet.results / NAME / "fit"
    assert (folder / "fit.csv").read_text().count(",yes") == 4 and "with unlabelled scans" in (
        folder / "fit.html"
    ).read_text()
    asked = len(gaining.asked)
    run(unlabelled=str(unlabelled))
    assert len(gaining.asked) == asked, "a finished fit does nothing again"


def test_they_are_not_used_if_it_does_not(gaining, unlabelled, nnunet, caplog):  # noqa: F811
    gaining.gain = 0.0
    with caplog.at_level("INFO"):
        run(unlabelled=str(unlabelled))
    assert "not used, as the Dice of left-out scans does not rise" in caplog.text
    assert final(nnunet) == "network of 400 steps" and "Dice 0.700" in caplog.text


def test_those_of_the_dataset_are_found_and_can_be_left_out(gaining, dataset, unlabelled, nnunet, caplog):  # noqa: F811
    shutil.copytree(unlabelled, dataset / "imagesUn")
    with caplog.at_level("INFO"):
        run(iterations=5)
    assert "join training; --unlabelled none leaves them out" in caplog.text
    assert final(nnunet) == "network of 5 steps and unlabelled scans"
    run(iterations=5, unlabelled="none")
    assert final(nnunet) == "network of 5 steps"


def test_other_scans_train_anew(gaining, unlabelled, nnunet):  # noqa: F811
    run(iterations=5, unlabelled=str(unlabelled))
    assert gaining.trainings() == ["0", "1"] * 2 + ["all"]
    (unlabelled / "plain_0000.nii.gz").unlink()
    run(iterations=5, unlabelled=str(unlabelled))
    assert gaining.trainings() == ["0", "1"] * 2 + ["all"] + ["0", "1", "all"], "but not the rounds without them"


@pytest.mark.parametrize("fails_at", range(4, 10))
def test_a_fit_that_is_stopped_resumes_and_repeats_nothing(gaining, unlabelled, nnunet, fails_at):  # noqa: F811
    gaining.fails_at = fails_at
    with pytest.raises(CommandFailed):
        run(iterations=5, unlabelled=str(unlabelled))
    gaining.fails_at = 0
    run(iterations=5, unlabelled=str(unlabelled))
    assert len(gaining.asked) == 10 and final(nnunet) == "network of 5 steps and unlabelled scans"


def test_minutes_leave_time_for_them(gaining, unlabelled, caplog):  # noqa: F811
    # A training logs 30 s: two rounds of 60 s each, of which the second would run twice.
    with caplog.at_level("INFO"):
        run(minutes=2.2, unlabelled=str(unlabelled))
    assert gaining.trainings() == ["0", "1", "all"] and "it would take 2 minutes more" in caplog.text
    run(minutes=3, unlabelled=str(unlabelled))
    assert gaining.trainings()[3:] == ["0", "1", "all"], "tried now"


def test_bad_folders_are_refused_before_anything_is_trained(commands, dataset, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="--unlabelled: no folder"):
        run(unlabelled=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="whose content is that of"):
        run(unlabelled=str(dataset / "imagesTr"))
    assert not commands.asked
