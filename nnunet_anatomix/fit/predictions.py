"""Predictions of a folder of scans by networks of a fit, with stock ``nnUNetv2_predict``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_anatomix.fit.folder import PLANS, TRAINER
from nnunet_anatomix.study.runs import CONFIGURATION
from pretraining.common.atomic import write_text
from pretraining.common.batch import run_batch
from pretraining.common.child import run_child
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_state, fingerprint

_MARK = "predicted"


@dataclass(frozen=True, kw_only=True)
class Model:
    """Networks in one of nnU-Net's results folders.

    Attributes:
        dataset: Name of the dataset.
        results: Value of ``nnUNet_results``.
        version: Text that differs between networks of different trainings.
        device: Value of ``-device``.
        ending: Suffix of label files.
    """

    dataset: str
    results: Path
    version: str
    device: str
    ending: str


def predict(
    model: Model, networks: Mapping[str, Sequence[str]], images: Path, inputs: Mapping[str, list[Path]], out: Path
) -> dict[str, Path]:
    """Predict all scans of a folder with each network or ensemble.

    Args:
        model: Where the networks are.
        networks: Name of a folder below ``out`` → folds that predict together.
        images: Folder of scans.
        inputs: Scan → its files.
        out: Folder for the predictions; those of the same scans and networks are kept.

    Returns:
        Name → folder of the predictions.

    Raises:
        CommandFailed: If a prediction fails.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    states = [file_state(file) for files in inputs.values() for file in files]

    def digest(name: str) -> str:
        return fingerprint([states, model.version, list(networks[name])])

    def is_done(name: str) -> bool:
        mark = out / name / _MARK
        return mark.is_file() and mark.read_text(encoding="utf-8") == digest(name)

    def work(name: str) -> None:
        target = out / name
        run_child(
            [
                *("nnUNetv2_predict", "-i", str(images), "-o", str(target), "-d", model.dataset, "-c", CONFIGURATION),
                *("-f", *networks[name], "-tr", TRAINER, "-p", PLANS, "-device", model.device),
            ],
            {**os.environ, "nnUNet_results": str(model.results.resolve())},
            out / "log.txt",
        )
        if missing := [case for case in inputs if not (target / f"{case}{model.ending}").is_file()]:
            raise InputError(f"nnUNetv2_predict wrote no labels of {missing[0]}; see {out / 'log.txt'}")
        write_text(target / _MARK, digest(name))

    names = {f"network of fold {' '.join(folds)}": name for name, folds in networks.items()}
    run_batch(names, work, noun="network", is_done=is_done).require_all("networks")
    return {name: out / name for name in networks}
