"""Fakes of nnU-Net's commands, which write what ``fit`` and ``next`` read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.finetuning.unlabelled.folder import ENLARGED
from nnunet_anatomix.fit.folder import PLANS, TRAINER
from pretraining.common.errors import CommandFailed

NAME = "Dataset901_Hippocampus"


class Commands:
    """Records calls; ``dice`` gives the Dice of a training by its steps; fails at ``fails_at``.

    Trainings with unlabelled scans have ``gain`` more.
    """

    def __init__(self, dice: Callable[[int], float]) -> None:
        self.dice, self.fails_at, self.gain = dice, 0, 0.0
        self.asked: list[list[str]] = []

    def __call__(self, command, environment, log_file) -> None:
        self.asked.append(list(command))
        preprocessed = Path(environment["nnUNet_preprocessed"]) / NAME
        if command[0] == "nnunet-anatomix":
            architecture = {"arch_kwargs": {"strides": [[2, 2, 2]] * 3}}
            plan = {"patch_size": [80] * 3, "batch_size": 4, "architecture": architecture}
            content = {"plans_name": PLANS, "configurations": {"3d_fullres": plan}}
            (preprocessed / f"{PLANS}.json").write_text(json.dumps(content))
        elif command[0] == "nnUNetv2_train":
            self._train(command[3], command[command.index("-p") + 1], environment, preprocessed)
        elif command[0] == "nnUNetv2_predict":
            self._predict(Path(command[2]), Path(command[4]), int(command[command.index("-f") + 1]))
        if len(self.asked) == self.fails_at:
            raise CommandFailed(f"'{command[0]}' ended with exit code 1")

    def trainings(self) -> list[str]:
        """Folds of all trainings, in order."""
        return [command[3] for command in self.asked if command[0] == "nnUNetv2_train"]

    def _train(self, fold: str, plans: str, environment, preprocessed: Path) -> None:
        model = Path(environment["nnUNet_results"]) / NAME / f"{TRAINER}__{plans}__3d_fullres"
        folder = model / f"fold_{fold}"
        folder.mkdir(parents=True, exist_ok=True)
        if len(self.asked) == self.fails_at:
            return  # killed before its end
        steps = int(environment["ANATOMIX_ITERATIONS"])
        (model / "plans.json").write_text((preprocessed / f"{plans}.json").read_text())
        extra = " and unlabelled scans" if plans.endswith(ENLARGED) else ""
        (folder / "checkpoint_final.pth").write_text(f"network of {steps} steps{extra}")
        (folder / "checkpoint_best.pth").touch()
        (folder / "training_log_1.txt").write_text(
            "t: Epoch 0 \nt: train_loss 0.5 \nt: val_loss 0.7 \nt: Pseudo dice [np.float32(0.25)] \n"
            "t: Epoch time: 30.0 s \n"
        )
        if fold == "all":
            return
        cases = json.loads((preprocessed / "splits_final.json").read_text())[int(fold)]["val"]
        (folder / "validation").mkdir(exist_ok=True)
        dice = self.dice(steps) + self.gain * bool(extra)
        metrics = {"1": {"Dice": dice}, "2": {"Dice": dice}}
        for case in cases:
            label = Path(environment["nnUNet_raw"]) / NAME / "labelsTr" / f"{case}.nii.gz"
            (folder / "validation" / label.name).write_bytes(label.read_bytes())
        listed = [{"prediction_file": f"x/{case}.nii.gz", "metrics": metrics} for case in cases]
        (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": listed}))

    @staticmethod
    def _predict(images: Path, out: Path, fold: int) -> None:
        """Label voxels above a threshold; for the scan ``unsure``, networks have different ones."""
        out.mkdir(parents=True, exist_ok=True)
        for path in images.iterdir():
            scan = sitk.ReadImage(str(path))
            voxels = sitk.GetArrayFromImage(scan)
            share = 0.5 + 0.4 * fold * path.name.startswith("unsure")
            labels = sitk.GetImageFromArray((voxels > np.quantile(voxels, share)).astype(np.uint8))
            labels.CopyInformation(scan)
            sitk.WriteImage(labels, str(out / path.name.replace("_0000", "")))
