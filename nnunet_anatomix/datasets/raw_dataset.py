"""A download as a raw dataset of nnU-Net's, with the parts of Table 8.

DatasetXXX_NAME/imagesTr, labelsTr   training and validation
DatasetXXX_NAME/imagesTs, labelsTs   test
DatasetXXX_NAME/splits_final.json    fold 0 trains on the few, fold 1 on all of training; both validate on validation
DatasetXXX_NAME/preparation.json     from what it was made
DatasetXXX_NAME/dataset.json         written last: the dataset is complete
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
from pretraining.common.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SegmentationDataset:
    """One of the paper's datasets for segmentation (Table 8)."""

    key: str
    """On the command line."""
    title: str
    """As the paper calls it."""
    number: int
    """Of nnU-Net's folder."""
    name: str
    """Of nnU-Net's folder."""
    modality: str
    """``MRI``, or ``CT``, which nnU-Net scales otherwise."""
    labels: tuple[str, ...]
    """Structures 1, 2, ..."""
    counts: Counts
    shots: tuple[int, ...]
    """Numbers of volumes that the paper fine-tunes on; the first is the default."""
    crop: int
    """Side of the paper's training crops, voxels."""
    spacing_mm: tuple[float, float, float]
    """Of the paper's training grid, slices last."""
    find: Callable[[Path, bool], Parts]
    """Download, and whether a part of it will do → its cases."""
    batch: int = 4
    """Crops a step."""
    values: Mapping[int, int] | None = None
    """Value in the download → label; None where they agree."""

    @property
    def folder(self) -> str:
        """Below ``nnUNet_raw``."""
        return f"Dataset{self.number:03d}_{self.name}"

    def prepare(self, source: Path, out: Path, *, shots: int | None = None, partial: bool = False) -> Path:
        """Write the dataset below ``out``; killed, it goes on, and nothing is ever written into ``source``.

        Args:
            source: The user's download.
            out: ``nnUNet_raw``.
            shots: Training volumes of fold 0; left out, the paper's.
            partial: Take what there is, in the proportions of Table 8, in place of all that the
                paper had.

        Returns:
            The dataset's folder.

        Raises:
            InputError: For a download that is not as expected, or a folder of something else.
        """
        parts = self.find(source, partial)
        shots = self.shots[0] if shots is None else shots
        if not 1 <= shots <= len(parts.training):
            raise InputError(
                f"{self.title}: expected from 1 to {len(parts.training)} shots, its training volumes, found {shots}"
            )
        folder = out / self.folder
        if folder.resolve().is_relative_to(source.resolve()):
            raise InputError(
                f"--out {out} lies in the download {source}, which nothing is written into; name another folder"
            )
        everything = [*parts.training, *parts.validation, *parts.test]
        files = files_digest(path for case in everything for path in (case.image, case.label))
        with claim_folder(folder, {"dataset": self.key, "shots": shots, "partial": partial, "files": files}):
            values = self.values or {value: value for value in range(len(self.labels) + 1)}
            jobs = [
                (case, part)
                for part, cases in (("Tr", [*parts.training, *parts.validation]), ("Ts", parts.test))
                for case in cases
            ]
            for case, part in tqdm(jobs, desc=self.key, unit="case", disable=None):
                image, label = (
                    folder / f"images{part}" / f"{case.name}_0000{ENDING}",
                    folder / f"labels{part}" / f"{case.name}{ENDING}",
                )
                convert_case(case, image, label, values, self.title)
            write_text(folder / SPLITS_FILE, json.dumps(_folds(parts, shots), indent=1) + "\n")
            write_text(folder / "dataset.json", json.dumps(self._description(parts), indent=1) + "\n")
            numbers = (len(parts.training), len(parts.validation), len(parts.test))
            log.info(
                "%s: %d training, %d validation and %d test volumes; fold 0 trains on %d of them",
                folder,
                *numbers,
                shots,
            )
        return folder

    def _description(self, parts: Parts) -> dict[str, object]:
        return {
            "name": self.title,
            "channel_names": {"0": self.modality},
            "labels": {"background": 0} | {name: value for value, name in enumerate(self.labels, 1)},
            "numTraining": len(parts.training) + len(parts.validation),
            "file_ending": ENDING,
        }


def _folds(parts: Parts, shots: int) -> list[dict[str, list[str]]]:
    training, validation = ([case.name for case in part] for part in (parts.training, parts.validation))
    (few,) = draw_folds(training, shots, seed=0)
    return [{"train": few["train"], "val": validation}, {"train": training, "val": validation}]
