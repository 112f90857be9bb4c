"""Few-shot study: Dice on held-out scans as a function of labelled scans and initial weights.

Files in the output folder::

    study.json                settings; a folder with other settings is an error
    anatomix_cases.json       scans; a dataset with other scans is an error
    nnUNet_preprocessed       plans and scans, shared by all runs
    runs/NAME                 one run, with its own folds; dice.csv marks a finished run
    failed.csv                runs that failed, with reasons
    cases.csv                 every case of every finished run
    table.md, .csv, curve.png means

Several calls may work in one folder at the same time: each skips runs that another process holds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_anatomix.finetuning.case_record import (
    case_files,
    describe_change,
    name_some,
    read_record,
    record_cases,
    write_record,
)
from nnunet_anatomix.finetuning.splits import draw_folds, training_pool
from nnunet_anatomix.scores.statistics import read_case_dice
from nnunet_anatomix.study.report import RunScore, read_rows, score_run, write_report, write_rows
from nnunet_anatomix.study.runs import (
    BUILT_IN_STARTS,
    PREPROCESSED,
    Run,
    StudySettings,
    execute_run,
    parse_starts,
    prepare,
)
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.config import read_json, to_dict
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock, is_vacant

if TYPE_CHECKING:
    from nnunet_anatomix.finetuning.dataset import RawDataset

log = logging.getLogger(__name__)

FINISHED = "dice.csv"
"""File that marks a finished run."""


def study(
    settings: StudySettings,
    out: Path,
    *,
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2),
    starts: Sequence[str] = ("weights", "scratch", "stock"),
    device: str = "cpu",
    keep: bool = False,
) -> str:
    """Execute all unfinished runs with stock commands, and write tables and curve.

    Args:
        settings: Settings of all runs.
        out: Folder of the study. A later call may add shots, seeds and starts; concurrent calls
            share the work.
        shots: Numbers of labelled scans to train on. Each seed draws its own scans; those of more
            shots include those of fewer. If the raw dataset has a ``splits_final.json``, only
            training cases of its largest fold are used. Default: all.
        seeds: Seeds of the drawn cases, of the head's random weights and of training.
        starts: ``weights`` (the bundled ones), ``scratch``, ``stock`` nnU-Net, or weights files.
        device: ``cpu``, ``cuda`` or ``mps``.
        keep: Whether to keep the checkpoints of finished runs, up to a gigabyte per run.

    Returns:
        Table of all finished runs in ``out``, as Markdown.

    Raises:
        InputError: If the dataset has no case to test on, the folder belongs to another study, or
            scans were added, changed or removed since the study began.
        CommandFailed: If planning fails; or, after all other runs, if some runs failed or are held
            by other processes.
        Interrupted: On a stop signal, after the running command has stopped. The next call resumes.
    """
    # Imports nnU-Net, which --help does not need.
    from nnunet_anatomix.finetuning.dataset import find_dataset

    dataset = find_dataset(settings.dataset)
    cases = training_pool(dataset.folder, list(dataset.cases))
    shots = sorted(set(shots)) or [len(cases)]
    if not 1 <= shots[0] <= shots[-1] <= len(cases):
        raise InputError(f"expected from 1 to {len(cases)} shots, the number of training cases, found {shots}")
    tests = dataset.folder if (dataset.folder / "labelsTs").is_dir() else None
    if tests is None and shots[-1] == len(cases):
        raise InputError(
            f"{dataset.name} has no labelsTs and is tested on the remaining training cases: "
            f"shots must be below {len(cases)}, found {shots[-1]}"
        )
    starts_by_name = parse_starts(starts)
    if settings.recipe == "paper":
        starts_by_name = {name: start.as_in_paper() for name, start in starts_by_name.items()}
    with hold_lock(out, wait=True):
        _claim(out, settings)
        _require_same_scans(out, dataset, tests)
        prepare(out, settings, starts_by_name.values())
    runs = [
        Run(start=start, shots=number, seed=seed)
        for number in shots
        for seed in sorted(set(seeds))
        for start in starts_by_name.values()
    ]

    def is_done(run: Run) -> bool:
        return (out / "runs" / run.name / FINISHED).is_file()

    def work(run: Run) -> None:
        folder = out / "runs" / run.name
        with hold_lock(folder):
            if is_done(run):  # another process may have finished it before this one got the lock
                return
            (fold,) = draw_folds(cases, run.shots, seed=run.seed, validation=cases if tests is None else ())
            trains_on_all = run.shots == len(dataset.cases)
            summary = execute_run(run, settings, None if trains_on_all else fold, out, tests, device)
            write_rows(folder / FINISHED, score_run(run, read_case_dice(summary, dataset.description)))
            if not keep:
                _delete_checkpoints(folder)
        report()

    def report() -> str:
        rows = _read_finished_runs(out, list(starts_by_name))
        return write_report(out, rows, f"{dataset.name}, {settings.iterations} iterations")

    outcome = run_batch({run.name: run for run in runs}, work, noun="run", is_done=is_done, failures=out)
    outcome.require_all("runs", see=out / FAILURES)
    return report()


def _require_same_scans(out: Path, dataset: RawDataset, tests: Path | None) -> None:
    """Refuse scans that differ from those of the study; else record them.

    Otherwise, a run would train on fewer or other scans than the number of shots in its name.
    """
    files = case_files(dataset.cases)
    for folder in (tests / "imagesTs", tests / "labelsTs") if tests is not None else ():
        files |= {f"{folder.name}/{path.name}": [path] for path in sorted(folder.iterdir()) if path.is_file()}
    before = read_record(out)
    now = record_cases(files, before)
    change = describe_change(before, now)
    if before and change:
        raise InputError(f"{out} was begun with other scans of {dataset.name} ({change}); use another folder")
    if not before:
        _require_preprocessed(out / PREPROCESSED / dataset.name / "gt_segmentations", dataset)
    write_record(out, now)


def _require_preprocessed(labels: Path, dataset: RawDataset) -> None:
    """Refuse preprocessed cases of an older study without a record that are not those of today."""
    if labels.is_dir():
        names = {path.name.removesuffix(dataset.description["file_ending"]) for path in labels.iterdir()}
        if different := names ^ set(dataset.cases):
            raise InputError(
                f"{labels.parents[2]} was begun with other scans of {dataset.name} (different: "
                f"{name_some(different)}); use another folder"
            )


def _delete_checkpoints(folder: Path) -> None:
    checkpoints = sorted(folder.rglob("checkpoint_*.pth"))
    size = sum(checkpoint.stat().st_size for checkpoint in checkpoints)
    for checkpoint in checkpoints:
        checkpoint.unlink()
    names = ", ".join(str(checkpoint.relative_to(folder)) for checkpoint in checkpoints)
    if checkpoints:
        log.info("%s: deleted %s (%sB); --keep keeps checkpoints", folder, names, format_bytes(size))


def _read_finished_runs(out: Path, starts: Sequence[str]) -> list[RunScore]:
    """Read the rows of all finished runs, sorted by shots, seed and start (``starts`` first)."""
    rows = [row for path in sorted(out.glob(f"runs/*/{FINISHED}")) for row in read_rows(path)]
    order = [*starts, *BUILT_IN_STARTS, *sorted({row.start for row in rows})]
    return sorted(rows, key=lambda row: (row.shots, row.seed, order.index(row.start)))


def _claim(out: Path, settings: StudySettings) -> None:
    """Write the settings into the folder; raise InputError if it holds anything but this study."""
    path = out / "study.json"
    if path.is_file():
        earlier, now = to_dict(read_json(StudySettings, path)), to_dict(settings)
        if changed := {name: f"{earlier[name]}, now {now[name]}" for name in now if earlier[name] != now[name]}:
            raise InputError(f"{out} contains a study with other settings ({changed}); use another folder")
    elif not is_vacant(out):
        raise InputError(f"{out} contains something other than a study; use an empty or new folder")
    else:
        write_text(path, json.dumps(asdict(settings), indent=2) + "\n")
