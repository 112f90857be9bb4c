"""Conversion of a download to a raw dataset of nnU-Net, with the parts of Table 8.

DatasetXXX_NAME/imagesTr, labelsTr   training and validation
DatasetXXX_NAME/imagesTs, labelsTs   test
DatasetXXX_NAME/splits_final.json    fold 0 trains on the few shots, fold 1 on all training cases
DatasetXXX_NAME/preparation.json     inputs of the preparation
DatasetXXX_NAME/dataset.json         written last, marks a complete dataset
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnunet_anatomix.datasets.case_files import ENDING, convert_case
from nnunet_anatomix.datasets.claim import claim_folder, files_digest
from nnunet_anatomix.datasets.layout import Counts, Parts
from nnunet_anatomix.finetuning.splits import SPLITS_FILE, draw_folds
from pretraining.common.atomic import write_text
from pretraining.common.child import hides_progress_bars
from pretraining.common.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SegmentationDataset:
    """One of the paper's datasets for segmentation (Table 8)."""

    key: str
    """Name on the command line."""
    title: str
    """Name in the paper."""
    number: int
    """Number in nnU-Net's folder name."""
    name: str
    """Name in nnU-Net's folder name."""
    modality: str
    """``MRI`` or ``CT``, which nnU-Net normalizes differently."""
    labels: tuple[str, ...]
    """Names of the labels 1, 2, ..."""
    counts: Counts
    shots: tuple[int, ...]
    """Numbers of fine-tuning volumes in the paper; the first is the default."""
    crop: int
    """Side of the paper's training crops, voxels."""
    spacing_mm: tuple[float, float, float]
    """Spacing of the paper's training grid, slices last."""
    find: Callable[[Path, bool], Parts]
    """Function of the download's folder, and whether it may be incomplete, that finds all cases."""
    batch: int = 4
    """Crops per step."""
    values: Mapping[int, int] | None = None
    """Value in the download → label. Default: equal."""

    @property
    def folder(self) -> str:
        """Name of the folder in ``nnUNet_raw``."""
        return f"Dataset{self.number:03d}_{self.name}"

    def prepare(self, source: Path, out: Path, *, shots: int | None = None, partial: bool = False) -> Path:
        """Write the dataset; the same call resumes an interrupted one.

        Args:
            source: Folder of the download, which is not changed.
            out: ``nnUNet_raw``, in which the folder is created.
            shots: Training volumes of fold 0. Default: as in the paper.
            partial: Accept an incomplete download, and split it in the proportions of Table 8.

        Returns:
            Folder of the dataset.

        Raises:
            InputError: If the download has another layout, or the folder holds something else.
        """
        parts = self.find(source, partial)
        shots = self.shots[0] if shots is None else shots
        if not 1 <= shots <= len(parts.training):
            raise InputError(
                f"--shots: expected 1 to {len(parts.training)}, the training volumes of {self.title}, found {shots}"
            )
        folder = out / self.folder
        if folder.resolve().is_relative_to(source.resolve()):
            raise InputError(f"--out: expected a folder outside the download {source}, found {out}; use another folder")
        cases = [*parts.training, *parts.validation, *parts.test]
        files = files_digest(path for case in cases for path in (case.image, case.label))
        with claim_folder(folder, {"dataset": self.key, "shots": shots, "partial": partial, "files": files}):
            values = self.values or {value: value for value in range(len(self.labels) + 1)}
            jobs = [
                (case, part)
                for part, of_part in (("Tr", [*parts.training, *parts.validation]), ("Ts", parts.test))
                for case in of_part
            ]
            for case, part in tqdm(jobs, desc=self.key, unit="case", disable=hides_progress_bars()):
                image, label = (
                    folder / f"images{part}" / f"{case.name}_0000{ENDING}",
                    folder / f"labels{part}" / f"{case.name}{ENDING}",
                )
                convert_case(case, image, label, values, self.title)
            write_text(folder / SPLITS_FILE, json.dumps(_make_folds(parts, shots), indent=1) + "\n")
            write_text(folder / "dataset.json", json.dumps(self._dataset_json(parts), indent=1) + "\n")
            numbers = (len(parts.training), len(parts.validation), len(parts.test))
            log.info(
                "%s: %d training, %d validation and %d test volumes; fold 0 trains on %d of them",
                folder,
                *numbers,
                shots,
            )
        return folder

    def _dataset_json(self, parts: Parts) -> dict[str, object]:
        return {
            "name": self.title,
            "channel_names": {"0": self.modality},
            "labels": {"background": 0} | {name: value for value, name in enumerate(self.labels, 1)},
            "numTraining": len(parts.training) + len(parts.validation),
            "file_ending": ENDING,
        }


def _make_folds(parts: Parts, shots: int) -> list[dict[str, list[str]]]:
    training, validation = ([case.name for case in part] for part in (parts.training, parts.validation))
    (few,) = draw_folds(training, shots, seed=0)
    return [{"train": few["train"], "val": validation}, {"train": training, "val": validation}]
