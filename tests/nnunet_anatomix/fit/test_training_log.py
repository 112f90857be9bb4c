"""Training logs are read as nnU-Net writes them."""

from __future__ import annotations

import os
from math import isnan

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.fit.training_log import TrainingLog, read_training_log


class Writer(nnUNetTrainer):
    """Writes what a training writes at the end of an epoch."""

    def __init__(self, path) -> None:
        from nnunetv2.training.logging.nnunet_logger import MetaLogger

        self.local_rank, self.log_file, self.logger = 0, str(path), MetaLogger(str(path.parent), False)
        self.current_epoch, self.num_epochs, self.save_every, self._best_ema = 0, 9, 100, 2.0
        self.output_folder = str(path.parent)
        self.logger.plot_progress_png = lambda folder: None

    def epoch(self, loss: float, dice: list[float]) -> None:
        self.print_to_log_file(f"Epoch {self.current_epoch}")
        for key, value in (
            ("epoch_start_timestamps", 10.0),
            ("train_losses", np.float32(loss)),
            ("mean_fg_dice", float(np.nanmean(dice))),
            ("dice_per_class_or_region", [np.float32(value) for value in dice]),
            ("val_losses", np.float32(2 * loss)),
            ("lrs", 0.1),
        ):
            self.logger.log(key, value, self.current_epoch)
        self.on_epoch_end()


def test_values_are_read_by_epoch_and_repeated_epochs_once(tmp_path):
    assert read_training_log(tmp_path / "nowhere") == TrainingLog()
    first = Writer(tmp_path / "training_log_2026_11_28_05_00_00.txt")
    first.epoch(0.5, [0.25, 0.75])
    first.epoch(-0.125, [1e-5, float("nan")])
    resumed = Writer(tmp_path / "training_log_2026_11_28_06_00_00.txt")
    resumed.epoch(0.25, [0.5, 0.5])
    resumed.print_to_log_file("epoch 1 of 9: iteration 3 of 4, 25 s each, loss 0.2500")
    os.utime(first.log_file, ns=(1, 1))
    log = read_training_log(tmp_path)
    assert log.training_loss == {0: 0.25, 1: -0.125} and log.validation_loss == {0: 0.5, 1: -0.25}
    assert (log.patch_dice[0] == 0.5 and log.patch_dice[1] == 0.0) or not isnan(log.patch_dice[1])
    assert log.seconds.keys() == {0, 1}
    assert log.progress == "epoch 1 of 9: iteration 3 of 4, 25 s each, loss 0.2500"
