"""Folders of one route: where each step of a run reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolders:
    """Folders below DST, or below DST/NAME for a route with a name."""

    root: Path

    @property
    def intake(self) -> Path:
        """Destination of ``intake``."""
        return self.root / "intake"

    @property
    def predictions(self) -> Path:
        """Complete predictions, and nothing else."""
        return self.root / "predictions"

    @property
    def records(self) -> Path:
        """Records of the predictions; see :class:`.prediction.PredictionRecord`."""
        return self.root / "predicted"

    @property
    def unfinished(self) -> Path:
        """Inputs and outputs of the prediction that is running, or was killed."""
        return self.root / "predicting"

    @property
    def results(self) -> Path:
        """Destination of ``deliver``."""
        return self.root / "results"

    @property
    def sent(self) -> Path:
        """Records of what other systems have received."""
        return self.root / "sent"

    @property
    def log(self) -> Path:
        """Output of nnU-Net."""
        return self.root / "log.txt"
