"""Inputs of a model: channels and file format, read from its ``dataset.json``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_anatomix.clinical.intake.channel_words import CONTRASTS, modalities_in
from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import DATASET_FILE, read_dataset_json

WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")
_OTHER_SUV = r"suv[\s_-]*(lbm|lean|bsa|ibw)|(?<![a-z])sul(?![a-z])"
_UNINFORMATIVE = r"|\d+|nonorm|zscore|rescale_to_0_1|rgb_to_0_1|ctnormalization|image|channel\d*|unknown"


@dataclass(frozen=True)
class Channel:
    """One channel of a model."""

    number: int
    name: str
    """Name in ``channel_names``."""
    unit: str = ""
    """``suv`` or ``stored`` if ``--map`` asks for the unit of PET values; else the name tells."""
    originals_only: bool = False
    """True to take no lossy compressed CT, and none whose ImageType is not that of an original."""

    @property
    def kind(self) -> str:
        """CT, PET, SPECT, MR or one MR contrast; empty if the name has none or several of them."""
        kinds = modalities_in(self.name)
        contrasts = kinds & set(CONTRASTS)
        return (contrasts or kinds).pop() if len(contrasts or kinds) == 1 else ""

    @property
    def wants_suv(self) -> bool:
        """True if PET values are needed as SUV by body weight."""
        return self.unit == "suv" or (not self.unit and "suv" in self.name.lower() and not self.wants_other_suv)

    @property
    def wants_other_suv(self) -> bool:
        """True if the name asks for SUV by lean body mass or body surface."""
        return not self.unit and re.search(_OTHER_SUV, self.name.lower()) is not None

    @property
    def is_informative(self) -> bool:
        """True unless the name is empty, a number, a normalization scheme or a generic word."""
        return not re.fullmatch(_UNINFORMATIVE, self.name.strip().lower())

    def __str__(self) -> str:
        return f"channel {self.number} ({self.name})" if self.name else f"channel {self.number}"


@dataclass(frozen=True)
class Needs:
    """Inputs of a model."""

    model: str
    """Folder of the ``dataset.json``."""
    channels: tuple[Channel, ...]
    """Channels in the model's order."""
    file_ending: str


def find_needs(model: str) -> Needs:
    """Read the channels and the file format of a model or dataset.

    Args:
        model: A trained model's folder or one of its folds, a folder of models of one dataset, a
            dataset folder, a ``dataset.json``, or the ID or name of a dataset below
            ``nnUNet_results``, ``nnUNet_preprocessed`` or ``nnUNet_raw``.

    Raises:
        InputError: If there is no such model or dataset, if its ``dataset.json`` is incomplete, or
            if its file format cannot be written.
    """
    files = _find_dataset_files(model)
    needs = [_read(file) for file in files]
    if different := [file for file, needed in zip(files, needs, strict=True) if needed != needs[0]]:
        raise InputError(
            f"{files[0].parent} and {different[0].parent} have different channels or file formats; "
            "give one of these folders to -m"
        )
    channels, ending = needs[0]
    return Needs(model=str(files[0].parent), channels=channels, file_ending=ending)


def _find_dataset_files(model: str) -> list[Path]:
    """Return the ``dataset.json`` files of a model or dataset."""
    path = Path(model)
    if path.is_file() and path.name == DATASET_FILE:
        return [path]
    if path.is_dir():
        for folder in (path, path.parent):
            if (folder / DATASET_FILE).is_file():
                return [folder / DATASET_FILE]
        if files := sorted(path.glob(f"*__*__*/{DATASET_FILE}")):
            return files
        raise InputError(
            f"no dataset.json in {path}; expected the folder of a dataset or of a trained model "
            "(TRAINER__PLANS__CONFIGURATION)"
        )
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

    roots = [
        Path(root.get())
        for root in (nnUNet_results, nnUNet_preprocessed, nnUNet_raw)
        if root.get() and Path(root.get()).is_dir()
    ]
    if model.isdigit():
        names = {folder.name for root in roots for folder in root.glob(f"Dataset{int(model):03d}_*") if folder.is_dir()}
    else:
        names = {model} if any((root / model).is_dir() for root in roots) and re.fullmatch(r"[\w.-]+", model) else set()
    if len(names) != 1:
        found = f"found {sorted(names)}" if names else "found none"
        raise InputError(
            f"-m '{model}': expected the folder of a model or dataset, or the ID or name of one dataset below "
            f"nnUNet_results, nnUNet_preprocessed or nnUNet_raw; {found} "
            f"(searched {', '.join(map(str, roots)) or 'no folder, none of the three is set'})"
        )
    name = names.pop()
    for root in roots:
        files = sorted((root / name).glob(f"*__*__*/{DATASET_FILE}")) or [root / name / DATASET_FILE]
        if files[0].is_file():
            return files
    raise InputError(f"-m '{model}': {name} has no dataset.json in {', '.join(map(str, roots))}")


def _read(file: Path) -> tuple[tuple[Channel, ...], str]:
    described = read_dataset_json(file)
    names, ending = described.channel_names, described.file_ending
    if ending not in WRITABLE:
        raise InputError(
            f"{file}: file_ending is {ending!r}, expected one for 3D scans: {', '.join(WRITABLE)}; use another model"
        )
    return tuple(Channel(number, name) for number, name in enumerate(names)), ending
