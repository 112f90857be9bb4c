"""The datasets that a table runs on: the paper's, found in the data folder, or any others of the user's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nnunet_anatomix.datasets import l2r_abdomen, mm_whs
from nnunet_anatomix.datasets.catalog import SEGMENTATION
from nnunet_anatomix.datasets.registration_pairs import PAIRS_FILE, PairSettings, read_pair_settings
from nnunet_anatomix.reproduce.settings import Settings
from pretraining.common.errors import InputError

_WITHOUT_PUBLIC_DATA = {"wufetal": "WUFetal"}
"""Column of the paper → its title; in-house, never published."""


@dataclass(frozen=True, kw_only=True)
class SegmentationSource:
    """A dataset to segment."""

    title: str
    folder: str
    """Below ``nnUNet_raw``."""
    shots: int
    crop: int | None = None
    spacing_mm: tuple[float, float, float] | None = None
    batch: int | None = None
    cases: int | None = None
    """To train on; None where it isn't there."""
    missing: str = ""
    """What to do where it isn't there."""


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Pairs to register."""

    title: str
    folder: Path
    settings: PairSettings
    missing: str = ""
    """What to do where it isn't there."""


def segmentation_sources(settings: Settings, default: tuple[str, ...]) -> list[SegmentationSource]:
    """The datasets asked for.

    Raises:
        InputError: For a name that is neither one of ``prepare``'s nor a dataset's in the data
            folder.
    """
    return [_segmentation(settings, name) for name in settings.datasets or default]


def pair_sources(settings: Settings) -> list[PairSource]:
    """The pairs asked for.

    Raises:
        InputError: For a name that is neither one of ``prepare``'s nor a folder of pairs.
    """
    return [_pairs(settings, name) for name in settings.pairs or ("l2r-abdomen", "mm-whs")]


def _segmentation(settings: Settings, name: str) -> SegmentationSource:
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
    if name in _WITHOUT_PUBLIC_DATA:
        raise InputError(
            f"{_WITHOUT_PUBLIC_DATA[name]} is the authors' own dataset and was never published; leave it out"
        )
    known = sorted(
        path.name for path in settings.data.glob("Dataset[0-9][0-9][0-9]_*") if (path / "dataset.json").is_file()
    )
    found = [folder for folder in known if folder == name or (name.isdigit() and int(folder[7:10]) == int(name))]
    if len(found) != 1:
        raise InputError(
            f"no single dataset '{name}' in {settings.data}; there are {known}, and the paper's {sorted(SEGMENTATION)}"
        )
    cases = _training_cases(settings.data / found[0])
    return SegmentationSource(title=found[0][11:], folder=found[0], shots=settings.shots or min(3, cases), cases=cases)


def _training_cases(folder: Path) -> int:
    splits = folder / "splits_final.json"
    if splits.is_file():
        return max(len(fold["train"]) for fold in json.loads(splits.read_text(encoding="utf-8")))
    return sum(1 for path in (folder / "labelsTr").iterdir() if not path.name.startswith("."))


def _pairs(settings: Settings, name: str) -> PairSource:
    known = {
        "l2r-abdomen": (l2r_abdomen.FOLDER, "L2RAb", l2r_abdomen.CT_WINDOW_HU),
        "mm-whs": (mm_whs.FOLDER, "MM-WHS", mm_whs.CT_WINDOW_HU),
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
        raise InputError(f"no folder of pairs '{name}', in {settings.data} or here; the paper's are {sorted(known)}")
    pair_settings = read_pair_settings(folder)
    return PairSource(title=pair_settings.name, folder=folder, settings=pair_settings)
