"""nnU-Net's three folders with one real dataset, and commands run in them as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from tests.process_server import PythonProcess


class Workplace:
    """Empty folders next to ``dataset``, in nnU-Net's raw format, and ``weights`` to start from."""

    def __init__(self, folder: Path, dataset: Path, weights: Path) -> None:
        self.folder, self.name, self._started = folder, dataset.name, 0
        self.raw, self.preprocessed, self.results = (folder / name for name in ("raw", "preprocessed", "results"))
        for made in (self.raw, self.preprocessed, self.results):
            made.mkdir()
        (self.raw / self.name).symlink_to(dataset)
        self.variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANATOMIX_", "nnUNet_"))
        } | {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "1",
            "ANATOMIX_WEIGHTS": str(weights),
        }

    def start(self, command: str, *arguments: object, **variables: str) -> PythonProcess:
        # The console script beside this interpreter, through it: the script's own first line may
        # name another.
        program = shutil.which(command, path=str(Path(sys.executable).parent)) or shutil.which(command)
        self._started += 1
        return PythonProcess(
            [sys.executable, program, *arguments],
            env=self.variables | variables,
            cwd=self.folder,
            output=self.folder / f"output-{self._started}",
            start_new_session=True,
        )

    def run(self, command: str, *arguments: object, code: int = 0, **variables: str) -> str:
        process = self.start(command, *arguments, **variables)
        output, _ = process.communicate()
        assert process.returncode == code, output
        return output

    def output(self, trainer: str = "AnatomixTrainer", plans: str = "nnUNetPlans") -> Path:
        return self.results / self.name / f"{trainer}__{plans}__3d_fullres"

    def scans(self, count: int) -> Path:
        """A folder with the first ``count`` test scans."""
        folder = self.folder / "scans"
        folder.mkdir(exist_ok=True)
        for scan in sorted((self.raw / self.name / "imagesTs").iterdir())[:count]:
            (folder / scan.name).symlink_to(scan)
        return folder

    def dice(self, predictions: Path) -> float:
        truth = self.folder / "truth"
        shutil.rmtree(truth, ignore_errors=True)
        truth.mkdir()
        for prediction in predictions.glob("*.nii.gz"):
            (truth / prediction.name).symlink_to(self.raw / self.name / "labelsTs" / prediction.name)
        described = (predictions / "dataset.json", "-pfile", predictions / "plans.json")
        self.run("nnUNetv2_evaluate_folder", truth, predictions, "-djfile", *described)
        return json.loads((predictions / "summary.json").read_text())["foreground_mean"]["Dice"]
