"""Command ``fit``: from a raw dataset to a trained model, with the Dice to expect."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunetv2.paths import nnUNet_results

from nnunet_anatomix.finetuning.case_record import digest, read_record
from nnunet_anatomix.finetuning.dataset import RawDataset, find_dataset
from nnunet_anatomix.finetuning.splits import SPLITS_FILE, automatic_splits
from nnunet_anatomix.fit.folder import MODEL, PAGE, PLANS, TABLE, TRAINER, FitFolder, FitSettings
from nnunet_anatomix.fit.page import PageState, live_page
from nnunet_anatomix.fit.rounds import Round, best_round, next_length
from nnunet_anatomix.fit.trainings import Trainings, finish
from nnunet_anatomix.fit.unlabelled import find_unlabelled, try_unlabelled
from nnunet_anatomix.study.runs import CONFIGURATION, prepare_plan
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count, check_positive
from pretraining.common.device import resolve_device
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_state
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder
from pretraining.common.tables import write_csv

log = logging.getLogger(__name__)

CPU_PATCH, CPU_BATCH = 64, 2
"""Maximum side of patches, voxels, and patches per step, for trainings on a CPU."""
MARKER = "anatomix_fit.json"
"""File in the published model that tells which fit it is of."""


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """Request of the command ``fit``; None means the default of its help."""

    dataset: str
    unlabelled: str | None = None
    minutes: float | None = None
    iterations: int | None = None
    max_patch: int | None = None
    batch: int | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        check_positive(minutes=self.minutes)
        check_count(iterations=self.iterations, max_patch=self.max_patch, batch=self.batch)


def fit(request: FitRequest) -> list[str]:
    """Cross-validate trainings of growing length, then train on all labelled scans.

    If there are unlabelled scans, the best round is repeated with them, and they are kept if the
    Dice rises.

    The model is written to ``nnUNet_results`` as stock training would write it: fold ``all``, and
    the folds of the best round. An interrupted call resumes; after a change of scans or settings,
    it begins anew.

    Args:
        request: What to do.

    Returns:
        Lines that predict new scans: with the model of all scans, and with the folds' ensemble.

    Raises:
        InputError: If dataset or settings cannot be used, or there is only one labelled scan.
        CommandFailed: If a command fails.
        InUse: If another process fits this dataset.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    dataset = find_dataset(request.dataset)
    if len(dataset.cases) < 2:
        raise InputError(
            f"fit tells the Dice to expect by leaving out scans, and needs two labelled ones, found 1 in "
            f"{dataset.name}; label another, or use: nnunet-anatomix propagate -d {request.dataset} -i IMAGES -o OUT"
        )
    device, root = _device(request.device), _results_root()
    is_cpu = device == "cpu"
    settings = FitSettings(
        max_patch=request.max_patch or (CPU_PATCH if is_cpu else None),
        batch=request.batch or (CPU_BATCH if is_cpu else None),
        seed=request.seed,
        weights=os.environ.get("ANATOMIX_WEIGHTS") or None,
    )
    folder = fit_folder(dataset.name)
    enlarger = find_unlabelled(dataset, folder, request.unlabelled, device)
    try_folder(folder.path)
    with hold_lock(folder.path):
        _begin(folder, dataset, settings)
        state = PageState(folder, dataset)
        log.info("open %s in a browser to watch the training", folder.path / PAGE)
        with live_page(state):
            _prepare(folder, dataset, settings, state)
            if enlarger is not None:
                enlarger.propagate()
            trainings = Trainings(folder=folder, dataset=dataset, settings=settings, device=device, state=state)
            best = _cross_validate(trainings, request, repeats=1 if enlarger is None else 2)
            if enlarger is not None:
                best = try_unlabelled(enlarger, trainings, state.rounds, _remaining_s(request, state.rounds))
                _write_table(folder, state.rounds)
            trainings = trainings.variant(best.is_enlarged)
            trainings.train_on_all(best)
            state.state = "finished"
            lines = predict_lines(dataset.name, best.folds, device)
            _publish(trainings, root / dataset.name / MODEL, best)
            state.commands = tuple(lines)
    log.info("expected on a new scan: %s", best.describe())
    log.info("predict with all scans' model:     %s", lines[0])
    log.info("or with the ensemble of the folds: %s", lines[1])
    return lines


def fit_folder(dataset: str) -> FitFolder:
    """Return the folder of the fit of a dataset, below ``nnUNet_results``.

    Args:
        dataset: Name of the dataset.

    Raises:
        InputError: If ``nnUNet_results`` is not set.
    """
    return FitFolder(_results_root() / dataset / "fit", dataset)


def predict_lines(dataset: str, folds: int, device: str) -> list[str]:
    """Return the commands that predict new scans with a fitted model.

    Args:
        dataset: Name of the dataset.
        folds: Number of folds.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        One line with the model of all scans, one with the ensemble of the folds.
    """
    model = f"-tr {TRAINER} -p {PLANS}" + ("" if device == "cuda" else f" -device {device}")
    number = int(dataset[7:10])
    ensemble = " ".join(map(str, range(folds)))
    return [
        f"nnUNetv2_predict -i IMAGES -o PREDICTIONS -d {number} -c {CONFIGURATION} -f {names} {model}"
        for names in ("all", ensemble)
    ]


def _results_root() -> Path:
    if not nnUNet_results.get():
        raise InputError(
            "nnUNet_results is not set; it names nnU-Net's folder (documentation/setting_up_paths.md of nnU-Net)"
        )
    return Path(nnUNet_results)


def _device(name: str) -> str:
    return name if name == "mps" else resolve_device(name).type


def _begin(folder: FitFolder, dataset: RawDataset, settings: FitSettings) -> None:
    """Keep what an earlier call with the same scans and settings did; remove anything else."""
    change, record = folder.change_since(dataset, settings)
    if change:
        log.info("%s: beginning anew, as scans or settings have changed (%s)", folder.path, change)
        # The record is replaced last, so that a call that is killed here is repeated.
        for entry in folder.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
    folder.claim(record, settings)


def _prepare(folder: FitFolder, dataset: RawDataset, settings: FitSettings, state: PageState) -> None:
    state.state = "planning and preprocessing"
    plan = folder.preprocessed / f"{PLANS}.json"
    command = ["nnunet-anatomix", "plan-and-preprocess", "-d", dataset.name, "-overwrite_plans_name", PLANS]
    if settings.max_patch is not None:
        command += ["--max-patch", str(settings.max_patch)]

    def work(_: str) -> None:
        prepare_plan(command, plan, folder.path, settings.max_patch, settings.batch)
        write_text(folder.preprocessed / SPLITS_FILE, json.dumps(automatic_splits(list(dataset.cases)), indent=4))

    finish({state.state: ""}, work, lambda _: (folder.preprocessed / SPLITS_FILE).is_file())


def _cross_validate(trainings: Trainings, request: FitRequest, *, repeats: int) -> Round:
    """Run rounds until nothing more is to be gained; return the best one."""
    folder, state = trainings.folder, trainings.state
    while True:
        lengths = folder.lengths() if request.iterations is None else [request.iterations]
        state.rounds = [one for length in lengths if (one := trainings.read_round(length))]
        _tidy(folder, state.rounds)
        _write_table(folder, state.rounds)
        if state.rounds:
            log.info("%d steps: %s", state.rounds[-1].iterations, state.rounds[-1].describe())
        length = _next_length(trainings, request, repeats)
        if length is None:
            return best_round(state.rounds)
        trainings.train_folds(length)


def _next_length(trainings: Trainings, request: FitRequest, repeats: int) -> int | None:
    """Return the steps of the next round, if any; an unfinished round comes first."""
    rounds = trainings.state.rounds
    if request.iterations is not None:
        return request.iterations if not rounds or not trainings.has_networks(rounds[0]) else None
    length = next_length(rounds, remaining_s=_remaining_s(request, rounds), repeats=repeats)
    finished = {one.iterations for one in rounds}
    return length and next((begun for begun in trainings.folder.lengths() if begun not in finished), length)


def _remaining_s(request: FitRequest, rounds: Sequence[Round]) -> float | None:
    return None if request.minutes is None else 60 * request.minutes - sum(one.seconds for one in rounds)


def _tidy(folder: FitFolder, rounds: list[Round]) -> None:
    """Delete the checkpoints of rounds that are not the best, up to a gigabyte each."""
    for one in rounds:
        if one is not best_round(rounds):
            for checkpoint in folder.results(one.iterations).rglob("checkpoint_*.pth"):
                checkpoint.unlink()


def _write_table(folder: FitFolder, rounds: list[Round]) -> None:
    rows = [
        [one.iterations, dice.case, dice.label, dice.dice, "yes" if one.is_enlarged else "no"]
        for one in rounds
        for dice in one.dice
    ]
    write_csv(folder.path / TABLE, ["steps", "case", "label", "dice", "unlabelled"], rows)


def _publish(trainings: Trainings, target: Path, best: Round) -> None:
    """Replace the model in ``nnUNet_results`` by this one, unless it is there already."""
    folder = trainings.folder
    _, *final = file_state(trainings.checkpoint(best.iterations, "all"))
    content = {"steps": best.iterations, "cases": digest(read_record(folder.path)), "final": final}
    marker = json.dumps(content) + "\n"
    if (target / MARKER).is_file() and (target / MARKER).read_text(encoding="utf-8") == marker:
        return
    new, old = folder.path / "model", folder.path / "replaced"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    unused = shutil.ignore_patterns("checkpoint_best.pth", "checkpoint_latest.pth")
    shutil.copytree(folder.model(best.iterations), new, ignore=unused)
    shutil.copytree(folder.training(best.iterations, "all"), new / "fold_all", ignore=unused)
    write_text(new / MARKER, marker)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
