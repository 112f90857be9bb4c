"""A few-shot study: how the Dice on scans never trained on depends on labelled scans and on where a network starts.

OUT/study.json                settings; a folder of other ones is refused
OUT/nnUNet_preprocessed       plans and scans, the same for all runs
OUT/runs/NAME/dice.csv        one run, finished; killed before, it goes on
OUT/cases.csv                 every case of every run
OUT/table.md, .csv, curve.png what they come to
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nnunet_anatomix.evaluation import read_case_dice
from nnunet_anatomix.study.report import read_rows, rows_of, write_report, write_rows
from nnunet_anatomix.study.runs import Run, StudySettings, carry_out, drawn_fold, prepare, starts_of, training_pool
from pretraining.atomic import write_text
from pretraining.config import read_json, to_dict
from pretraining.errors import InputError

log = logging.getLogger(__name__)


def study(
    settings: StudySettings,
    out: Path,
    *,
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2),
    starts: Sequence[str] = ("weights", "scratch", "stock"),
    device: str = "cpu",
) -> str:
    """Run all that is not finished, by stock commands, and write tables and curve; what is done already stays.

    Parameters
    ----------
    settings : of all runs.
    out : folder of the study. A later call may add shots, seeds and starts.
    shots : labelled scans to train on; all of them if empty. Each seed draws its own, and more shots contain fewer. Where the raw dataset
        has a ``splits_final.json``, what its largest fold does not train on is never trained on here.
    seeds : of the drawing, of the network's random part and of training.
    starts : ``weights`` (the bundled ones), ``scratch``, ``stock`` nnU-Net, or files of weights.
    device : ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    The table, as Markdown.

    Raises
    ------
    InputError
        If the dataset has no case to test on, or the folder belongs to another study.
    CommandFailed
        If a command fails; the next call goes on where it did.
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
    _claim(out, settings)
    prepare(out, settings, named.values())
    runs = [Run(start=start, shots=number, seed=seed) for number in shots for seed in sorted(set(seeds)) for start in named.values()]
    rows = []
    for position, run in enumerate(runs, start=1):
        folder = out / "runs" / run.name
        finished = folder / "dice.csv"
        if not finished.is_file():
            log.info("[%d/%d] %s", position, len(runs), run.name)
            fold = drawn_fold(cases, run.shots, run.seed, validate_on_others=tests is None)
            if fold is None and len(cases) < len(dataset.cases):  # the dataset keeps cases for validation, which fold all would train on
                fold = {"train": cases, "val": cases}
            summary = carry_out(run, settings, fold, out, tests, device)
            write_rows(finished, rows_of(run, read_case_dice(summary, dataset.description)))
            for checkpoint in folder.rglob("checkpoint_*.pth"):  # up to a gigabyte a run
                checkpoint.unlink()
        rows += read_rows(finished)
        table = write_report(out, rows, f"{dataset.name}, {settings.iterations} iterations")
    return table


def _claim(out: Path, settings: StudySettings) -> None:
    """Make ``out`` the folder of this study, unless it is another's."""
    path = out / "study.json"
    if path.is_file():
        earlier, now = to_dict(read_json(StudySettings, path)), to_dict(settings)
        if changed := {name: f"{earlier[name]}, now {now[name]}" for name in now if earlier[name] != now[name]}:
            raise InputError(f"{out} holds a study with other settings ({changed}); name another folder")
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} holds something other than a study; name an empty or new folder")
    else:
        write_text(path, json.dumps(asdict(settings), indent=2) + "\n")
