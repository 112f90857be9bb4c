"""An iteration of fine-tuning against stock nnU-Net's, as a ratio measured in one run."""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.trainer import AnatomixTrainerScratch
from pretraining.common.device import has_bf16_units

log = logging.getLogger(__name__)
NAME = "Dataset901_Hippocampus"


@pytest.fixture
def rivals(nnunet, planned_hippocampus, monkeypatch) -> dict[str, nnUNetTrainer]:
    """Both trainers on the stock plan: same patch, same batch."""
    shutil.copytree(planned_hippocampus / NAME, nnunet.preprocessed / NAME)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainers = {}
    for name, kind in (("ours", AnatomixTrainerScratch), ("stock", nnUNetTrainer)):
        plan, description = (
            json.loads((nnunet.preprocessed / NAME / f"{file}.json").read_text()) for file in ("nnUNetPlans", "dataset")
        )
        trainer = kind(plan | {"continue_training": False}, "3d_fullres", "all", description, torch.device("cpu"))
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        trainers[name] = trainer
    return trainers


def ratio(
    rivals: dict[str, nnUNetTrainer], step: Callable[[nnUNetTrainer], object], rounds: int, clock: Callable[[], float]
) -> float:
    """Median time of ours over the stock's, in turns, so that a busy machine slows both."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds + 1):
        for name, trainer in rivals.items():
            start = clock()
            step(trainer)
            seconds[name].append(clock() - start)
    ours, stock = (statistics.median(seconds[name][1:]) for name in ("ours", "stock"))
    log.warning("ours %.3f s, stock %.3f s, ratio %.2f", ours, stock, ours / stock)
    return ours / stock


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets PyTorch's threads; the suite's own number comes back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(not has_bf16_units(torch.device("cpu")), reason="this CPU has no bfloat16 units")
def test_an_iteration_takes_less_than_stock(rivals, threads):
    threads(os.cpu_count())
    batches = {trainer: next(trainer.dataloader_train) for trainer in rivals.values()}
    assert ratio(rivals, lambda trainer: trainer.train_step(batches[trainer]), 8, time.perf_counter) < 1.0


@pytest.mark.slow
def test_augmentation_keeps_up_with_stock(rivals, threads):
    # Augmentation runs on one core a worker; artefacts are drawn, so that single batches differ a
    # lot.
    threads(1)

    def several(trainer: nnUNetTrainer) -> None:
        for _ in range(20):
            next(trainer.dataloader_train)

    assert ratio(rivals, several, 5, time.process_time) <= 1.0
