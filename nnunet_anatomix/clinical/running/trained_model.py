"""Trained nnU-Net models: folder, folds and checksum."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nnunet_anatomix.clinical.intake.needs import find_needs
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_sha256, file_state, fingerprint
from pretraining.imaging.dataset_json import DATASET_FILE, read_object

log = logging.getLogger(__name__)

CHECKPOINT, PLANS_FILE = "checkpoint_final.pth", "plans.json"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """Folder of a trained model with the folds that predict."""

    folder: Path
    """Absolute path of ``TRAINER__PLANS__CONFIGURATION``."""
    folds: tuple[str, ...]
    """``all``, or numbers."""

    @property
    def name(self) -> str:
        """Name of the dataset, or of the folder if it lies elsewhere."""
        return self.folder.parent.name if self.folder.parent.name.startswith("Dataset") else self.folder.name

    @property
    def dataset_file(self) -> Path:
        """Path of its ``dataset.json``, which names channels and labels."""
        return self.folder / DATASET_FILE

    @property
    def sha256(self) -> Mapping[str, str]:
        """SHA-256 of each file that a prediction depends on, by its path in the folder.

        A file is read again only if it has been replaced.
        """
        files = [DATASET_FILE, PLANS_FILE, *(f"fold_{fold}/{CHECKPOINT}" for fold in self.folds)]
        return {file: _sha256_of_state(*file_state(self.folder / file)) for file in files}

    @property
    def fingerprint(self) -> str:
        """Hash of all these files."""
        return fingerprint(self.sha256)


@lru_cache(maxsize=256)
def _sha256_of_state(path: str, size_bytes: int, mtime_ns: int) -> str:
    return file_sha256(Path(path))


def find_trained_model(model: str, folds: Sequence[str] = ()) -> TrainedModel:
    """Find a trained model.

    Args:
        model: Folder of a trained model or of one of its folds, folder with one trained model, or
            ID or name of a dataset with one trained model below ``nnUNet_results``.
        folds: ``all``, or numbers. Default: all numbered folds that are trained, else ``all``.

    Raises:
        InputError: If there is no such model, several ones, a missing fold, or a model that needs
            the prediction of another one.
    """
    folder = Path(find_needs(model).model).resolve()
    given = Path(model)
    if given.is_dir() and given.name.startswith("fold_") and given.resolve().parent == folder:
        folds = folds or (given.name.removeprefix("fold_"),)
    elif not (given.exists() and folder in (given.resolve(), given.resolve().parent)):
        # ``find_needs`` returned the first of several models with the same channels.
        several = sorted(file.parent for file in folder.parent.glob(f"*__*__*/{DATASET_FILE}"))
        if len(several) > 1:
            raise InputError(
                f"{folder.parent} holds several models ({', '.join(one.name for one in several)}); "
                "give the folder of one of them as the model"
            )
    trained = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{CHECKPOINT}"))
    if not trained or not (folder / PLANS_FILE).is_file():
        raise InputError(
            f"{folder} holds no trained model; expected plans.json and fold_0/{CHECKPOINT} or fold_all/{CHECKPOINT}"
        )
    if missing := [fold for fold in folds if fold not in trained]:
        raise InputError(f"{folder} has no trained fold {missing[0]}; found {', '.join(trained)}")
    _refuse_cascade(folder)
    return TrainedModel(folder=folder, folds=tuple(folds) or tuple(_numbered(trained)) or ("all",))


def _numbered(folds: Sequence[str]) -> list[str]:
    return [fold for fold in folds if fold.isdigit()]


def _refuse_cascade(folder: Path) -> None:
    configurations = read_object(folder / PLANS_FILE).get("configurations", {})
    configuration = configurations.get(folder.name.rpartition("__")[2], {})
    if isinstance(configuration, Mapping) and (earlier := configuration.get("previous_stage")):
        raise InputError(
            f"{folder.name} needs predictions of {earlier}, which this command does not make; "
            "use a model of another configuration"
        )
