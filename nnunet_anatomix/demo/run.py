"""Demo run: few-shot segmentation and a registration of synthetic scans, with the usual commands.

It proves that the installation works and shows how the commands work together, not how accurate the
method is on real scans.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import torch

from nnunet_anatomix.demo.anatomy import ORGANS
from nnunet_anatomix.demo.dataset import (
    DATASET,
    DATASET_ID,
    TEST_CASES,
    TRAINING_CASES,
    Pair,
    make_dataset,
    make_pair,
)
from nnunet_anatomix.demo.report import Findings, write_report
from pretraining.common.child import run_child
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import LOCK, hold_lock, is_vacant

log = logging.getLogger(__name__)

PLANS = "nnUNetAnatomixPlans"
TRAINERS = {"pretrained": "AnatomixTrainer", "from scratch": "AnatomixTrainerScratch"}
"""Start of the training → trainer."""
LEAST_DICE = 0.5
_MARKER_FILE = ".anatomix-demo"
_MEMORY_GB = "0.85"
"""Memory for the training, GB: two patches per step."""


def run_demo(out: Path, *, iterations: int = 100, device: str = "auto", seed: int = 0) -> dict[str, float]:
    """Synthesize scans; train from pretrained weights and from scratch, segment, and register.

    Args:
        out: Folder for all files; an earlier demo in it is replaced.
        iterations: Optimizer steps of each training.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Seed of the anatomy and its subjects.

    Returns:
        Mean Dice over the test cases by organ, with pretrained weights.

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
    root = out.resolve()
    folders = {name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    raw = folders["nnUNet_raw"] / DATASET
    log.info("synthesizing %d training scans, %d test scans and a pair", TRAINING_CASES, TEST_CASES)
    make_dataset(raw, seed=seed)
    pair = make_pair(root / "pair", seed=seed)
    steps = _steps(root, raw, pair, iterations, device)
    environment = {
        **os.environ,
        **{name: str(folder) for name, folder in folders.items()},
        "ANATOMIX_SEED": str(seed),
        "nnUNet_n_proc_DA": "1",  # each process imports torch, which takes longer than its work here
        "nnUNet_def_n_proc": "1",
    }
    for number, (title, command) in enumerate(steps.items(), start=1):
        log.info("[%d/%d] %s", number, len(steps), title)
        run_child(command, environment, out / "log.txt")
    findings = Findings.read(raw, {start: root / _folder(start) for start in TRAINERS}, pair, root / "registration")
    write_report(out, findings, iterations=iterations, seconds=time.monotonic() - started)
    for start in TRAINERS:
        log.info("mean Dice %-12s %.3f after %d steps", start, findings.mean_dice(start), iterations)
    log.info(
        "mean Dice of the registered pair %.3f, before %.3f",
        findings.mean_registered("after"),
        findings.mean_registered("before"),
    )
    log.info("done in %.0f s; open %s", time.monotonic() - started, root / "report.html")
    mean = findings.mean_dice("pretrained")
    if not mean >= LEAST_DICE:  # also true for NaN
        raise CommandFailed(
            f"expected a mean Dice of at least {LEAST_DICE}, found {mean:.3f}: the installation does not work, "
            f"see {out / 'log.txt'}"
        )
    return {organ: findings.dice["pretrained"][organ] for organ in ORGANS}


def _steps(root: Path, raw: Path, pair: Pair, iterations: int, device: str) -> dict[str, list[str]]:
    """Return the commands of the demo by title."""
    steps = {
        "planning and preprocessing": [
            *("nnunet-anatomix", "plan-and-preprocess", "-d", str(DATASET_ID), "--iterations", str(iterations)),
            *("--gpu-memory-target", _MEMORY_GB, "-np", "1"),
        ]
    }
    for start, trainer in TRAINERS.items():
        model = ["-p", PLANS, "-tr", trainer, "-device", device]
        train = ["nnUNetv2_train", str(DATASET_ID), "3d_fullres", "all", *model]
        steps[f"training for {iterations} steps, {start}"] = train
        steps[f"segmenting {TEST_CASES} scans, {start}"] = [
            *("nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(root / _folder(start))),
            *("-d", str(DATASET_ID), "-c", "3d_fullres", "-f", "all", *model, "-npp", "1", "-nps", "1"),
        ]
    steps["registering two subjects of different contrast"] = [
        *("nnunet-anatomix", "register", "--fixed", str(pair.fixed), "--moving", str(pair.moving)),
        *("--fixed-labels", str(pair.fixed_labels), "--moving-labels", str(pair.moving_labels)),
        *("--out", str(root / "registration"), "--device", device),
    ]
    return steps


def _folder(start: str) -> str:
    return f"predictions_{start.replace(' ', '_')}"


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
