"""Demo run: synthesize a small dataset, then train, predict and evaluate with stock commands.

It proves that the installation works and shows how the commands work together, not how accurate the
method is on real scans.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from nnunet_anatomix.demo.anatomy import ORGANS, make_subject
from pretraining.common.atomic import atomic_write, write_text
from pretraining.common.child import run_child
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import LOCK, hold_lock, is_vacant
from pretraining.common.tables import markdown_table, write_csv

log = logging.getLogger(__name__)

DATASET_ID = 999
DATASET = f"Dataset{DATASET_ID}_AnatomixDemo"
PLANS = "nnUNetAnatomixPlans"
TRAINING_CASES, TEST_CASES = 3, 2
LEAST_DICE = 0.5
_MARKER_FILE = ".anatomix-demo"


def run_demo(out: Path, *, iterations: int = 150, device: str = "auto", seed: int = 0) -> dict[str, float]:
    """Synthesize a dataset; plan, preprocess, train, predict and evaluate with stock commands.

    Args:
        out: Folder for all files; an earlier demo in it is replaced.
        iterations: Optimizer steps.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Seed of the anatomy and its subjects.

    Returns:
        Mean Dice over the test cases by organ.

    Raises:
        InputError: If ``out`` contains something other than an earlier demo.
        CommandFailed: If a command fails or the mean Dice is below 0.5.
    """
    with hold_lock(out):
        return _run_demo(out, iterations=iterations, device=device, seed=seed)


def _run_demo(out: Path, *, iterations: int, device: str, seed: int) -> dict[str, float]:
    started = time.monotonic()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    _clear(out)
    folders = {name: out.resolve() / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    raw = folders["nnUNet_raw"] / DATASET
    log.info("[1/6] synthesizing %d training scans and %d test scans", TRAINING_CASES, TEST_CASES)
    make_dataset(raw, seed=seed)
    predictions = out.resolve() / "predictions"
    model = ["-d", str(DATASET_ID), "-c", "3d_fullres", "-f", "all", "-p", PLANS, "-tr", "AnatomixTrainer"]
    train_model = [str(DATASET_ID), "3d_fullres", "all", "-p", PLANS, "-tr", "AnatomixTrainer"]
    plans_json = folders["nnUNet_preprocessed"] / DATASET / f"{PLANS}.json"
    steps = {
        "planning": ["nnunet-anatomix", "plan", "-d", str(DATASET_ID), "--iterations", str(iterations)],
        "preprocessing": [
            "nnUNetv2_preprocess",
            "-d",
            str(DATASET_ID),
            "-plans_name",
            PLANS,
            "-c",
            "3d_fullres",
            "-np",
            "2",
        ],
        f"training for {iterations} iterations": ["nnUNetv2_train", *train_model, "-device", device],
        "predicting": [
            "nnUNetv2_predict",
            "-i",
            str(raw / "imagesTs"),
            "-o",
            str(predictions),
            *model,
            "-device",
            device,
        ],
        "evaluating": [
            *("nnUNetv2_evaluate_folder", str(raw / "labelsTs"), str(predictions)),
            *("-djfile", str(raw / "dataset.json"), "-pfile", str(plans_json)),
        ],
    }
    environment = {
        **os.environ,
        **{name: str(folder) for name, folder in folders.items()},
        "ANATOMIX_SEED": str(seed),
        "nnUNet_n_proc_DA": "2",
        "nnUNet_def_n_proc": "2",
    }
    for number, (title, command) in enumerate(steps.items(), start=2):
        log.info("[%d/6] %s: %s", number, title, " ".join(command))
        run_child(command, environment, out / "log.txt")
    summary = json.loads((predictions / "summary.json").read_text(encoding="utf-8"))
    dice = {organ: summary["mean"][str(label)]["Dice"] for label, organ in enumerate(ORGANS, start=1)}
    _write_report(out, raw, predictions, dice, summary, seconds=time.monotonic() - started)
    mean = float(np.mean(list(dice.values())))
    for organ, value in dice.items():
        log.info("Dice of %-10s %.3f", organ, value)
    log.info(
        "mean Dice %.3f on %d test scans, %.0f s; see %s",
        mean,
        TEST_CASES,
        time.monotonic() - started,
        out / "report.md",
    )
    if not mean >= LEAST_DICE:  # also true for NaN
        raise CommandFailed(
            f"expected a mean Dice of at least {LEAST_DICE}, found {mean:.3f}: the installation does not work, "
            f"see {out / 'log.txt'}"
        )
    return dice


def make_demo_data(out: Path, *, seed: int = 0) -> Path:
    """Synthesize only the demo's dataset, in ``out/nnUNet_raw``, for trainings by hand.

    Args:
        out: New or empty folder.
        seed: Seed of the anatomy and its subjects.

    Returns:
        Folder of the dataset.

    Raises:
        InputError: If ``out`` is not empty.
    """
    raw = out / "nnUNet_raw" / DATASET
    with hold_lock(out):
        if not is_vacant(out):
            raise InputError(f"{out} is not empty; use an empty or new folder")
        make_dataset(raw, seed=seed)
    log.info("%d training scans and %d test scans are in %s", TRAINING_CASES, TEST_CASES, raw)
    return raw


def make_dataset(raw: Path, *, seed: int) -> None:
    """Synthesize the demo's dataset in nnU-Net's raw format, including labels of the test cases.

    Args:
        raw: Folder of the dataset.
        seed: Seed of the anatomy and its subjects.
    """
    import SimpleITK as sitk

    from pretraining.imaging.writing import write_image

    for number in range(TRAINING_CASES + TEST_CASES):
        part = "Tr" if number < TRAINING_CASES else "Ts"
        subject = make_subject(seed, number)
        for folder, name, volume in (
            (f"images{part}", f"subject_{number:03d}_0000.nii.gz", subject.image),
            (f"labels{part}", f"subject_{number:03d}.nii.gz", subject.labels),
        ):
            image = sitk.GetImageFromArray(volume.numpy())
            image.SetSpacing((1.5, 1.5, 1.5))
            write_image(raw / folder / name, image)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{organ: label for label, organ in enumerate(ORGANS, start=1)}},
        "numTraining": TRAINING_CASES,
        "file_ending": ".nii.gz",
    }
    write_text(raw / "dataset.json", json.dumps(description, indent=2))


def _clear(out: Path) -> None:
    if not is_vacant(out):
        if not (out / _MARKER_FILE).is_file():
            raise InputError(f"{out} contains something other than an earlier demo; use an empty or new folder")
        for entry in out.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name not in (LOCK, _MARKER_FILE):
                entry.unlink()
    (out / _MARKER_FILE).touch()


def _write_report(
    out: Path, raw: Path, predictions: Path, dice: dict[str, float], summary: dict, *, seconds: float
) -> None:
    from nnunet_anatomix.demo.pictures import draw_cases

    cases = sorted(path.name for path in (raw / "labelsTs").iterdir())
    with atomic_write(out / "overview.png") as partial:
        draw_cases(
            partial,
            {
                name.removesuffix(".nii.gz"): (
                    raw / "imagesTs" / name.replace(".nii.gz", "_0000.nii.gz"),
                    raw / "labelsTs" / name,
                    predictions / name,
                )
                for name in cases
            },
        )
    rows = [
        [Path(case["prediction_file"]).name, organ, case["metrics"][str(label)]["Dice"]]
        for case in summary["metric_per_case"]
        for label, organ in enumerate(ORGANS, start=1)
    ]
    write_csv(out / "dice.csv", ["case", "organ", "dice"], rows)
    table = markdown_table(["organ", "Dice"], [[organ, f"{value:.3f}"] for organ, value in dice.items()])
    write_text(
        out / "report.md",
        f"# Demo of nnunet-anatomix\n\n{TRAINING_CASES} synthetic training scans, {TEST_CASES} test scans, "
        f"{seconds:.0f} s in total.\n"
        f"The demo proves that the installation works, not how accurate the method is on real scans.\n\n"
        f"{table}\n![scan, truth and prediction](overview.png)\n",
    )
