"""What a running training tells: a progress bar for the eye and one JSON line a record for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pretraining.atomic import write_text


class Monitor:
    """Log of one run.

    Parameters
    ----------
    path : the ``.jsonl`` file; records beyond ``first_step`` (of an attempt that was cut off) are dropped.
    first_step, steps : where the training stands and ends.
    """

    def __init__(self, path: Path, *, first_step: int, steps: int) -> None:
        kept = []
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # the line that was being written when the process died
                    continue
                if record.get("step", 0) <= first_step:
                    kept.append(line)
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._bar = tqdm(total=steps, initial=first_step, unit="step", dynamic_ncols=True, mininterval=1.0)

    def advance(self) -> None:
        """One more step is done."""
        self._bar.update()

    def record(self, step: int, **values: Any) -> None:
        """Write one record and show its plain numbers."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items() if isinstance(value, float)}, refresh=False)

    def close(self) -> None:
        """End the log."""
        self._bar.close()
        self._file.close()
