"""A few-shot study: how the Dice on scans never trained on depends on labelled scans and on where a network starts.

OUT/study.json                settings; a folder of other ones is refused
OUT/nnUNet_preprocessed       plans and scans, the same for all runs
OUT/runs/NAME                 one run, with folds of its own; dice.csv is written when it is finished
OUT/failed.csv                runs that failed, and why
OUT/cases.csv                 every case of every finished run
OUT/table.md, .csv, curve.png means

Several calls may work in one folder at once, each on runs of its own: a run that another process
works on is left to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nnunet_anatomix.finetuning.splits import draw_folds, training_pool
from nnunet_anatomix.scores.statistics import read_case_dice
from nnunet_anatomix.study.report import Row, read_rows, rows_of, write_report, write_rows
from nnunet_anatomix.study.runs import BY_NAME, Run, StudySettings, carry_out, prepare, starts_of
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.config import read_json, to_dict
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock, is_vacant

FINISHED = "dice.csv"
"""Of a run."""


def study(
    settings: StudySettings,
    out: Path,
    *,
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2),
    starts: Sequence[str] = ("weights", "scratch", "stock"),
    device: str = "cpu",
) -> str:
    """Run everything that is not finished, by stock commands, and write tables and curve.

    Args:
        settings: Of all runs.
        out: Folder of the study. A later call may add shots, seeds and starts; calls at the same
            time share the work.
        shots: Labelled scans to train on; all of them if empty. Each seed draws its own, and more
            shots contain fewer. Where the raw dataset has a ``splits_final.json``, cases that its
            largest fold does not train on are never trained on here.
        seeds: Of the drawing, of the network's random part and of training.
        starts: ``weights`` (the bundled ones), ``scratch``, ``stock`` nnU-Net, or files of weights.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The table of all runs that are finished in ``out``, as Markdown.

    Raises:
        InputError: If the dataset has no case to test on, or the folder belongs to another study.
        CommandFailed: If planning fails; or, after all other runs, if some failed or are left to
            other processes.
        Interrupted: When this process is asked to stop, after the command in hand has been stopped.
            The next call resumes.
    """
    from nnunet_anatomix.finetuning.dataset import find_dataset  # imports nnU-Net, which --help does without

    dataset = find_dataset(settings.dataset)
    cases = training_pool(dataset.folder, list(dataset.cases))
    shots = sorted(set(shots)) or [len(cases)]
    if not 1 <= shots[0] <= shots[-1] <= len(cases):
        raise InputError(f"expected from 1 to {len(cases)} shots, as there are so many training cases, found {shots}")
    tests = dataset.folder if (dataset.folder / "labelsTs").is_dir() else None
    if tests is None and shots[-1] == len(cases):
        raise InputError(
            f"{dataset.name} has no labelsTs: it is tested on the training cases left out, so shots must be below {len(cases)}"
        )
    named = starts_of(starts)
    with hold_lock(out, wait=True):
        _claim(out, settings)
        prepare(out, settings, named.values())
    runs = [
        Run(start=start, shots=number, seed=seed)
        for number in shots
        for seed in sorted(set(seeds))
        for start in named.values()
    ]

    def is_done(run: Run) -> bool:
        return (out / "runs" / run.name / FINISHED).is_file()

    def work(run: Run) -> None:
        folder = out / "runs" / run.name
        with hold_lock(folder):
            if is_done(run):  # by another process, just now
                return
            (fold,) = draw_folds(cases, run.shots, seed=run.seed, validation=cases if tests is None else ())
            is_everything = run.shots == len(dataset.cases)
            summary = carry_out(run, settings, None if is_everything else fold, out, tests, device)
            write_rows(folder / FINISHED, rows_of(run, read_case_dice(summary, dataset.description)))
            for checkpoint in folder.rglob("checkpoint_*.pth"):  # up to a gigabyte a run
                checkpoint.unlink()
        report()

    def report() -> str:
        return write_report(out, _finished_rows(out, list(named)), f"{dataset.name}, {settings.iterations} iterations")

    outcome = run_batch({run.name: run for run in runs}, work, noun="run", is_done=is_done, failures=out)
    outcome.require_all("runs", see=out / FAILURES)
    return report()


def _finished_rows(out: Path, starts: Sequence[str]) -> list[Row]:
    """Rows of all runs: fewest shots first, then by seed, the given starts before others."""
    rows = [row for path in sorted(out.glob(f"runs/*/{FINISHED}")) for row in read_rows(path)]
    order = [*starts, *BY_NAME, *sorted({row.start for row in rows})]
    return sorted(rows, key=lambda row: (row.shots, row.seed, order.index(row.start)))


def _claim(out: Path, settings: StudySettings) -> None:
    """Make ``out`` the folder of this study, unless it is another's."""
    path = out / "study.json"
    if path.is_file():
        earlier, now = to_dict(read_json(StudySettings, path)), to_dict(settings)
        if changed := {name: f"{earlier[name]}, now {now[name]}" for name in now if earlier[name] != now[name]}:
            raise InputError(f"{out} holds a study with other settings ({changed}); name another folder")
    elif not is_vacant(out):
        raise InputError(f"{out} holds something other than a study; name an empty or new folder")
    else:
        write_text(path, json.dumps(asdict(settings), indent=2) + "\n")
