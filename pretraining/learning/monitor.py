"""Log of a running training: progress bar, JSON lines, TensorBoard and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pretraining.common.atomic import atomic_write, write_text
from pretraining.learning.budget import Budget


class Monitor:
    """Log of one run: ``log.jsonl``, ``tensorboard/`` and ``pictures/`` in its folder.

    Args:
        run: Folder of the run; records after ``first_step`` are dropped.
        first_step: Number of steps done so far.
        budget: Length of the training, which the progress bar shows.
    """

    def __init__(self, run: Path, *, first_step: int, budget: Budget) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed by trainings alone

        self._run = run
        path = run / "log.jsonl"
        kept = []
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # a line cut off when the process was killed
                    continue
                if record.get("step", 0) <= first_step:
                    kept.append(line)
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)
        self._budget, self._step = budget, first_step
        self._bar = tqdm(
            total=budget.total,
            initial=budget.position(first_step),
            unit=budget.unit,
            bar_format=budget.bar_format,
            dynamic_ncols=True,
            mininterval=1.0,
        )

    def advance(self) -> None:
        """Count one more step."""
        self._step += 1
        self._bar.update(self._budget.position(self._step) - self._bar.n)

    def record(self, step: int, **values: Any) -> None:
        """Write one record.

        Args:
            step: Number of steps done.
            **values: Numbers, or dicts of numbers by name.
        """
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                self._board.add_scalar(f"{name}/{key}" if key else name, number, step)
        postfix: dict[str, int | str] = {"step": step} if self._budget.unit != "step" else {}
        postfix |= {name: f"{value:.4g}" for name, value in values.items() if isinstance(value, float)}
        self._bar.set_postfix(postfix, refresh=False)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Save a picture as ``pictures/NAME-STEP.png`` and in TensorBoard.

        Args:
            step: Number of steps done.
            name: Name of the picture.
            picture: (H, W, 3) in [0, 1].
        """
        from matplotlib.image import imsave

        with atomic_write(self._run / "pictures" / f"{name}-{step:07d}.png") as partial:
            imsave(partial, picture, format="png")
        self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the log."""
        self._bar.close()
        self._board.close()
        self._file.close()
