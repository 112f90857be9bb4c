"""Table 3 and Figure 7: variants of the pretraining, by registration, fine-tuning and features."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nnunet_anatomix.reproduce.commands import (
    pretraining_steps,
    register_folder,
    register_step,
    search_folder,
    search_step,
    study_step,
)
from nnunet_anatomix.reproduce.plan import Cell, Step, Table, TunedFlags
from nnunet_anatomix.reproduce.published import TABLE_3
from nnunet_anatomix.reproduce.results import registration_dice, registration_folds, study_dice
from nnunet_anatomix.reproduce.settings import Settings
from nnunet_anatomix.reproduce.sources import pair_sources, segmentation_sources


class _Variant(NamedTuple):
    preset: str
    bank: str
    """Field of :class:`Settings` that holds its templates."""


_VARIANTS = {
    "Ours": _Variant("paper", "templates"),
    "labels: smshapes": _Variant("paper_smshapes", "templates"),
    "labels: Brains": _Variant("paper_brains", "brains"),
    "labels: Ours+Brains": _Variant("paper_ours_and_brains", "templates_and_brains"),
    "temperature 0.07": _Variant("paper_temperature_007", "templates"),
    "temperature 0.20": _Variant("paper_temperature_020", "templates"),
    "loss: denoising": _Variant("paper_denoising", "templates"),
    "loss: without labels": _Variant("paper_label_free", "templates"),
    "w/o foreground mask": _Variant("paper_no_foreground", "templates"),
    "w/o mask, offline augmentation": _Variant("paper_no_offline_artefacts", "templates"),
    "w/o mask, any augmentation": _Variant("paper_no_artefacts", "templates"),
}
"""Row of Table 3 → preset and bank."""
_ROWS_OF_FIGURE_7 = ("Ours", "temperature 0.07", "temperature 0.20", "labels: smshapes", "labels: Brains")


def table_3(settings: Settings) -> Table:
    """Build Table 3: variants of the pretraining, measured downstream."""
    table = Table(
        name="table3", title="Table 3. Pretraining configurations: registration by ConvexAdam, few-shot segmentation"
    )
    pairs = pair_sources(settings)[: None if settings.pairs else 1]  # the paper's table has L2RAb alone
    segmentation = segmentation_sources(settings, ("msd-heart", "amos-ct"))
    for row, variant in _VARIANTS.items():
        weights, exported, missing = _add_pretraining(settings, table, variant)
        for source in pairs:
            search = table.add(search_step(settings, source))
            tuned = TunedFlags(search=search_folder(settings, source), method="features")
            step = table.add(
                register_step(
                    settings, source, variant.preset, "convexadam", weights, tuned=tuned, after=(search, exported)
                )
            )
            folder = register_folder(settings, source, variant.preset)
            for column, read in ((source.title, registration_dice), (f"{source.title} folds", registration_folds)):
                paper, why = TABLE_3[row].get(column, ""), missing or source.missing
                table.cells.append(
                    Cell(row=row, column=column, paper=paper, steps=(step,), read=partial(read, folder), why_not=why)
                )
        for dataset in segmentation:
            step = table.add(study_step(settings, dataset, (str(weights),), (dataset.shots,), (exported,)))
            dice = partial(study_dice, settings, dataset, str(weights), dataset.shots)
            paper, why = TABLE_3[row].get(dataset.title, ""), missing or dataset.missing
            table.cells.append(Cell(row=row, column=dataset.title, paper=paper, steps=(step,), read=dice, why_not=why))
        if not settings.datasets:
            table.cells.append(
                Cell(row=row, column="WUFetal", paper=TABLE_3[row]["WUFetal"], why_not="WUFetal was never published")
            )
    table.notes += [
        "Every row registers with the settings that a search with our own weights finds best on the validation pairs.",
        "Samples are synthesized on the fly, whereas the paper draws from 120,000 stored ones; "
        "anatomix-pretrain synthesize stores them.",
    ]
    return table


def figure_7(settings: Settings) -> Table:
    """Build Figure 7: pictures of features of variants of the pretraining."""
    table = Table(name="figure7", title="Fig. 7 and 11. Features for varying pretraining: pictures")
    images = settings.images or _first_pair(settings)
    for row in _ROWS_OF_FIGURE_7:
        variant = _VARIANTS[row]
        weights, exported, missing = _add_pretraining(settings, table, variant)
        for image in images:
            name = image.name.split(".")[0]
            out = settings.out / "figure7" / f"{variant.preset}_{name}.nii.gz"
            command = (
                "nnunet-anatomix",
                "features",
                image,
                "--out",
                out,
                "--weights",
                weights,
                "--device",
                settings.device,
            )
            step = table.add(Step(name=f"features_{variant.preset}_{name}", command=command, after=(exported,)))
            read = partial(_find_picture, settings.out, out)
            why = missing or ("" if image.is_file() else "needs --images SCAN..., or prepared pairs")
            table.cells.append(Cell(row=row, column=name, paper="figure", steps=(step,), read=read, why_not=why))
    table.notes.append(
        "Scans are those of --images, or the first pair for testing registration; CT is not clipped here."
    )
    return table


def _add_pretraining(settings: Settings, table: Table, variant: _Variant) -> tuple[Path, str, str]:
    """Add the steps of a variant; return its weights file, the last step and what is missing."""
    bank: Path | None = getattr(settings, variant.bank)
    steps, weights = pretraining_steps(settings, variant.preset, bank or Path(f"{variant.bank.upper()}.bank"))
    exported = [table.add(step) for step in steps][-1]
    flag = f"--{variant.bank.replace('_', '-')}"
    return weights, exported, "" if bank else f"needs {flag} BANK, written by anatomix-pretrain templates"


def _first_pair(settings: Settings) -> tuple[Path, ...]:
    source = pair_sources(settings)[0]
    pairs = source.folder / "test.csv"
    if not pairs.is_file():
        return (source.folder / "FIXED.nii.gz", source.folder / "MOVING.nii.gz")
    with pairs.open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    return (source.folder / row["fixed"], source.folder / row["moving"])


def _find_picture(out: Path, features: Path) -> str:
    return (features.with_name(features.name.removesuffix(".nii.gz") + ".png")).relative_to(out).as_posix()
