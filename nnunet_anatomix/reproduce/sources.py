"""Datasets of a table: those of the paper, or others in the data folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nnunet_anatomix.datasets import l2r_abdomen, mm_whs
from nnunet_anatomix.datasets.catalog import SEGMENTATION
from nnunet_anatomix.datasets.registration_pairs import PAIRS_FILE, PairSettings, read_pair_settings
from nnunet_anatomix.reproduce.settings import Settings
from pretraining.common.errors import InputError
from pretraining.imaging.limits import CT_WINDOW_HU

_UNPUBLISHED = {"wufetal": "WUFetal"}
"""Names of datasets that were never published → titles in the paper."""


@dataclass(frozen=True, kw_only=True)
class SegmentationSource:
    """A dataset to segment."""

    title: str
    folder: str
    """Name of the folder in ``nnUNet_raw``."""
    shots: int
    """Volumes for fine-tuning."""
    crop: int | None = None
    """Side of the training crops, voxels."""
    spacing_mm: tuple[float, float, float] | None = None
    """Spacing of the training grid, slices last."""
    batch: int | None = None
    """Crops per step."""
    cases: int | None = None
    """Number of training cases; None if not prepared."""
    missing: str = ""
    """Instruction if it is not prepared."""


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Pairs to register."""

    title: str
    folder: Path
    settings: PairSettings
    missing: str = ""
    """Instruction if it is not prepared."""


def segmentation_sources(settings: Settings, default: tuple[str, ...]) -> list[SegmentationSource]:
    """Find the selected datasets.

    Args:
        settings: Settings with the selection.
        default: Names if none is selected.

    Returns:
        One source per name.

    Raises:
        InputError: If a name is neither one of ``prepare`` nor of a dataset in the data folder.
    """
    return [_segmentation_source(settings, name) for name in settings.datasets or default]


def pair_sources(settings: Settings) -> list[PairSource]:
    """Find the selected pairs.

    Args:
        settings: Settings with the selection.

    Returns:
        One source per name.

    Raises:
        InputError: If a name is neither one of ``prepare`` nor a folder of pairs.
    """
    return [_pair_source(settings, name) for name in settings.pairs or ("l2r-abdomen", "mm-whs")]


def _segmentation_source(settings: Settings, name: str) -> SegmentationSource:
    if name in SEGMENTATION:
        dataset = SEGMENTATION[name]
        ready = (settings.data / dataset.folder / "dataset.json").is_file()
        return SegmentationSource(
            title=dataset.title,
            folder=dataset.folder,
            shots=settings.shots or dataset.shots[0],
            crop=dataset.crop,
            spacing_mm=dataset.spacing_mm,
            batch=dataset.batch,
            cases=_training_cases(settings.data / dataset.folder) if ready else None,
            missing=""
            if ready
            else f"not prepared: nnunet-anatomix prepare {name} --source DOWNLOAD --out {settings.data}",
        )
    if name in _UNPUBLISHED:
        raise InputError(f"--datasets: {_UNPUBLISHED[name]} was never published; omit it")
    known = sorted(
        path.name for path in settings.data.glob("Dataset[0-9][0-9][0-9]_*") if (path / "dataset.json").is_file()
    )
    found = [folder for folder in known if folder == name or (name.isdigit() and int(folder[7:10]) == int(name))]
    if len(found) != 1:
        raise InputError(
            f"no single dataset '{name}' in {settings.data}, expected one of {known}, "
            f"or of the paper's {sorted(SEGMENTATION)}"
        )
    cases = _training_cases(settings.data / found[0])
    return SegmentationSource(title=found[0][11:], folder=found[0], shots=settings.shots or min(3, cases), cases=cases)


def _training_cases(folder: Path) -> int:
    splits = folder / "splits_final.json"
    if splits.is_file():
        return max(len(fold["train"]) for fold in json.loads(splits.read_text(encoding="utf-8")))
    return sum(1 for path in (folder / "labelsTr").iterdir() if not path.name.startswith("."))


def _pair_source(settings: Settings, name: str) -> PairSource:
    known = {
        "l2r-abdomen": (l2r_abdomen.FOLDER, "L2RAb", CT_WINDOW_HU),
        "mm-whs": (mm_whs.FOLDER, "MM-WHS", CT_WINDOW_HU),
    }
    if name in known:
        folder_name, title, window = known[name]
        folder = settings.data / folder_name
        ready = (folder / PAIRS_FILE).is_file()
        return PairSource(
            title=title,
            folder=folder,
            settings=read_pair_settings(folder) if ready else PairSettings(name=title, fixed_clip=window),
            missing=""
            if ready
            else f"not prepared: nnunet-anatomix prepare {name} --source DOWNLOAD --out {settings.data}",
        )
    folder = settings.data / name if (settings.data / name).is_dir() else Path(name)
    if not folder.is_dir():
        raise InputError(
            f"no folder of pairs '{name}' in {settings.data} or here, expected one, or of the paper's {sorted(known)}"
        )
    pair_settings = read_pair_settings(folder)
    return PairSource(title=pair_settings.name, folder=folder, settings=pair_settings)
