"""Measure what unlabelled scans bring: train with them on all labelled scans, and test.

``python -m tests.benchmarks.unlabelled_scans --work DIR`` uses the test scans of a dataset without
their labels as unlabelled ones. It first trains with labels by registered scans, then with labels
by these and by the network just trained, and prints both tables of Dice. Patch and batch are capped
as in a study. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nnunet_anatomix.enlarging.enlarge import Enlarger
from nnunet_anatomix.finetuning.dataset import find_dataset
from nnunet_anatomix.study.runs import CONFIGURATION, OUR_PLANS, PREPROCESSED, prepare_plan
from pretraining.common.child import run_child


def main() -> None:
    """Run both trainings and tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is written")
    parser.add_argument("--dataset", default="901")
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--max-patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset, work = find_dataset(options.dataset), options.work.resolve()
    plan = work / PREPROCESSED / dataset.name / f"{OUR_PLANS}.json"
    planning = ["nnunet-anatomix", "plan-and-preprocess", "-d", dataset.name, "--max-patch", str(options.max_patch)]
    prepare_plan(planning, plan, work, options.max_patch, options.batch)
    tests = dataset.folder / "imagesTs"
    enlarger = Enlarger(dataset, tests, plan, "cpu")
    networks: dict[str, Path] = {}
    for name in ("registered scans", "registered scans and a network"):
        model = ["-tr", "AnatomixTrainer", "-p", enlarger.enlarge(networks).stem, "-device", "cpu"]
        out = work / name.replace(" ", "_")
        predictions, scores = out / "predictions", out / "scores"
        environment = {
            **os.environ,
            "nnUNet_preprocessed": str(work / PREPROCESSED),
            "nnUNet_results": str(out),
            "ANATOMIX_ITERATIONS": str(options.iterations),
            "ANATOMIX_SEED": str(options.seed),
        }
        where = ["-i", str(tests), "-o", str(predictions), "-d", dataset.name, "-c", CONFIGURATION, "-f", "all"]
        scoring = [str(predictions), str(tests.with_name("labelsTs")), "--out", str(scores)]
        for command in (
            ["nnUNetv2_train", dataset.name, CONFIGURATION, "all", *model, "--c"],
            ["nnUNetv2_predict", *where, *model],
            ["nnunet-anatomix", "evaluate", "segmentation", *scoring],
        ):
            run_child(command, environment, out / "log.txt")
        sys.stdout.write(f"labels by {name}:\n{(scores / 'table.md').read_text(encoding='utf-8')}\n")
        networks = {"all": predictions}


if __name__ == "__main__":
    main()
