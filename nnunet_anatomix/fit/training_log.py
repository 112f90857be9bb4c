"""Reading of nnU-Net's training logs, also while a training runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan)"
_EPOCH = re.compile(r"(?::|^) *Epoch (\d+)\s*$")
_VALUES = {
    "training_loss": re.compile(rf"train_loss {_NUMBER}"),
    "validation_loss": re.compile(rf"val_loss {_NUMBER}"),
    "seconds": re.compile(rf"Epoch time: {_NUMBER} s"),
}
_DICE = re.compile(r"Pseudo dice \[(.*)\]")
_PROGRESS = re.compile(r"(epoch \d+ of \d+: iteration .*)$")


@dataclass
class TrainingLog:
    """Values that a training has logged so far, by epoch."""

    training_loss: dict[int, float] = field(default_factory=dict)
    validation_loss: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    patch_dice: dict[int, float] = field(default_factory=dict)
    """Mean over structures of the Dice on validation patches, NaN for structures without voxels
    ignored.
    """
    progress: str = ""
    """Last line of progress within an epoch."""


def read_training_log(folder: Path) -> TrainingLog:
    """Read the logs of a training, of which there is one per start.

    Args:
        folder: nnU-Net's folder of the training; it may not exist yet.

    Returns:
        The values; those of an epoch that was repeated after an interruption are the last ones.
    """
    log, epoch = TrainingLog(), 0
    for path in sorted(folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := _EPOCH.search(line):
                epoch = int(match[1])
            for name, pattern in _VALUES.items():
                if match := pattern.search(line):
                    getattr(log, name)[epoch] = float(match[1])
            if match := _DICE.search(line):
                values = [float(number) for number in re.findall(rf"(?<![\w.]){_NUMBER}", match[1])]
                known = [value for value in values if value == value]
                log.patch_dice[epoch] = sum(known) / len(known) if known else float("nan")
            if match := _PROGRESS.search(line):
                log.progress = match[1].strip()
    return log
