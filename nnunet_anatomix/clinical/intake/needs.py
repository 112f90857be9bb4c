"""What a model needs: its channels and the file format of its inputs, from the ``dataset.json`` of a model or dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_anatomix.clinical.intake.channel_words import CONTRASTS, modalities_in
from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import DATASET_FILE, read_dataset_json

WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")
_SAY_NOTHING = r"|\d+|nonorm|zscore|rescale_to_0_1|rgb_to_0_1|ctnormalization|image|channel\d*|unknown"


@dataclass(frozen=True)
class Channel:
    """One channel of a model."""

    number: int
    name: str
    """As in ``channel_names``."""

    @property
    def kind(self) -> str:
        """CT, PET, MR (of any contrast), one of MR's contrasts, or nothing where the name is another word or says nothing."""
        kinds = modalities_in(self.name)
        contrasts = kinds & set(CONTRASTS)
        return (contrasts or kinds).pop() if len(contrasts or kinds) == 1 else ""

    @property
    def says_something(self) -> bool:
        return not re.fullmatch(_SAY_NOTHING, self.name.strip().lower())

    def __str__(self) -> str:
        return f"channel {self.number} ({self.name})" if self.name else f"channel {self.number}"


@dataclass(frozen=True)
class Needs:
    """Channels in the model's order, and what to write."""

    model: str
    channels: tuple[Channel, ...]
    file_ending: str


def find_needs(model: str) -> Needs:
    """What a model or dataset needs.

    Args:
        model: A trained model's folder or one of its folds, a folder of models of one dataset, a
            dataset folder, a ``dataset.json``, or the ID or name of a dataset below
            ``nnUNet_results``, ``nnUNet_preprocessed`` or ``nnUNet_raw``.

    Raises:
        InputError: If there is no such thing, or it does not say what it needs, or needs what
            cannot be written.
    """
    files = _described(model)
    needs = [_read(file) for file in files]
    if different := [file for file, needed in zip(files, needs, strict=True) if needed != needs[0]]:
        raise InputError(
            f"{files[0].parent} and {different[0].parent} need different channels or file formats; give -m one of these folders"
        )
    channels, ending = needs[0]
    return Needs(model=str(files[0].parent), channels=channels, file_ending=ending)


def _described(model: str) -> list[Path]:
    """The ``dataset.json`` files that a model's or dataset's name leads to."""
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
            f"no dataset.json in {path}; expected a trained model's folder (TRAINER__PLANS__CONFIGURATION) or a dataset's"
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
            f"-m '{model}': expected a model's folder, a dataset's folder, or one dataset of this ID or name below nnUNet_results, "
            f"nnUNet_preprocessed or nnUNet_raw; {found} (looked in {', '.join(map(str, roots)) or 'no folder, none of the three is set'})"
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
            f"{file}: file_ending is {ending!r}, expected one for 3D scans: {', '.join(WRITABLE)}; take another model"
        )
    return tuple(Channel(number, name) for number, name in enumerate(names)), ending
