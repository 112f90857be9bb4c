"""Figure 5 and Tables 2, 4 and 5: registration with our features and those of other networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from nnunet_anatomix.registration.programs.program import read_program
from nnunet_anatomix.reproduce.commands import (
    network_file,
    network_rows,
    our_start,
    register_folder,
    register_step,
    search_folder,
    search_step,
    study_step,
)
from nnunet_anatomix.reproduce.plan import Cell, Table, TunedFlags
from nnunet_anatomix.reproduce.published import FIGURE_5, TABLE_2, TABLE_4, TABLE_5
from nnunet_anatomix.reproduce.results import (
    registration_dice,
    registration_folds,
    registration_median,
    search_numbers,
    study_dice,
)
from nnunet_anatomix.reproduce.settings import Settings
from nnunet_anatomix.reproduce.sources import PairSource, pair_sources, segmentation_sources

_METHODS = {"ConvexAdam-Ours": "features", "ConvexAdam": "mind"}
"""Row → method of a search."""
_GIVE_NETWORK = (
    "its weights are not part of this software: describe the network in a file {} and pass it with --networks "
    "(docs/reproduce.md)"
)
_FEATURE_WEIGHT_NOTE = (
    "Features are standardized per channel and weighted by .3 relative to MIND-SSC, "
    "whereas the paper multiplies raw ones by .1."
)
_OVERLAP_NOTE = (
    "Windows of the network overlap by .5 in the search, and by .8 in the tested registrations, as in the paper."
)


def figure_5(settings: Settings) -> Table:
    """Build Figure 5: registration of the test pairs, tuned on the validation pairs."""
    table = Table(name="figure5", title="Fig. 5. Multi-modality registration: Dice over test pairs, and folded voxels")
    for source in pair_sources(settings):
        search = table.add(search_step(settings, source))
        for row, method in _METHODS.items():
            features = settings.weights if method == "features" else "none"
            tuned = TunedFlags(search=search_folder(settings, source), method=method)
            step = table.add(
                register_step(settings, source, _slug(row), "convexadam", features, tuned=tuned, after=(search,))
            )
            table.cells += _dice_cells(settings, source, row, step)
        for row, features in (("ANTs-Ours", settings.weights), ("ANTs-MI", "none")):
            step = table.add(register_step(settings, source, _slug(row), "ants", features))
            table.cells += _dice_cells(settings, source, row, step)
        for program in settings.programs:
            row = read_program(program).name
            step = table.add(register_step(settings, source, _slug(row), "convexadam", "none", program=program))
            table.cells += _dice_cells(settings, source, row, step)
    table.notes += [
        "The paper's medians are drawn, not printed: from ANTs-MI to ANTs-Ours they rise by 26 (L2RAb) and 5 (MM-WHS) "
        "points, from ConvexAdam to ConvexAdam-Ours by 11 and 6. Means are those of Tables 2 and 3.",
        "SynthMorph-shapes and uniGradICON are other programs: --programs synthmorph_shapes unigradicon runs them "
        "where they are installed.",
        _FEATURE_WEIGHT_NOTE,
        _OVERLAP_NOTE,
    ]
    return table


def table_4(settings: Settings) -> Table:
    """Build Table 4: grid search on the validation pairs."""
    table = Table(
        name="table4",
        title="Table 4. Grid search on validation pairs: mean ± std over combinations of settings, folds in %",
    )
    for source in pair_sources(settings):
        step = table.add(search_step(settings, source))
        for row, method in _METHODS.items():
            for column, read in _search_columns(settings, source, method).items():
                paper = TABLE_4[row].get(column, "")
                table.cells.append(
                    Cell(row=row, column=column, paper=paper, steps=(step,), read=read, why_not=source.missing)
                )
    table.notes.append(_FEATURE_WEIGHT_NOTE)
    return table


def table_2(settings: Settings) -> Table:
    """Build Table 2: registration by ANTs with features of other pretrained networks."""
    table = Table(
        name="table2", title="Table 2. Features of other networks driving ANTs: mean Dice and its bootstrapped std"
    )
    rows: dict[str, str | Path | None] = {"MutualInfo": "none", "Ours": settings.weights} | network_rows(
        settings.networks, TABLE_2
    )
    for source in pair_sources(settings):
        table.cells += _ants_cells(settings, table, source, rows, TABLE_2)
        table.cells += [_missing_network(row, source, TABLE_2) for row in TABLE_2 if row not in rows]
    table.notes.append("MedicalNet is excluded, as in the paper, because it has no decoder.")
    return table


def table_5(settings: Settings) -> Table:
    """Build Table 5: the second-best network with our architecture."""
    table = Table(
        name="table5",
        title="Table 5. PrimGeoSeg at our parameters and architecture: mean Dice and its bootstrapped std",
    )
    networks = network_rows(settings.networks, TABLE_5)
    segmentation = segmentation_sources(settings, ("msd-heart", "l2r-abdomen", "feta", "amos-ct"))
    starts = {"Ours": our_start(settings)} | {row: str(path) for row, path in networks.items()}
    for source in segmentation:
        for row, start in starts.items():
            step = table.add(study_step(settings, source, (start,), (source.shots,)))
            read = partial(study_dice, settings, source, start, source.shots)
            paper = TABLE_5.get(row, {}).get(source.title, "")
            table.cells.append(
                Cell(row=row, column=source.title, paper=paper, steps=(step,), read=read, why_not=source.missing)
            )
        for row, numbers in TABLE_5.items():
            if row not in starts:
                why = _GIVE_NETWORK.format(network_file(row))
                table.cells.append(Cell(row=row, column=source.title, paper=numbers.get(source.title, ""), why_not=why))
    rows: dict[str, str | Path | None] = {"Ours": settings.weights} | networks
    for pairs in pair_sources(settings):
        table.cells += _ants_cells(settings, table, pairs, rows, TABLE_5)
        table.cells += [_missing_network(row, pairs, TABLE_5) for row in TABLE_5 if row not in rows]
    table.notes.append(
        "PrimGeoSeg's pretraining is not part of this software: pass weights of our architecture (.safetensors, .pth)."
    )
    return table


def _ants_cells(
    settings: Settings, table: Table, source: PairSource, rows: dict[str, str | Path | None], paper: dict
) -> list[Cell]:
    cells = []
    for row, features in rows.items():
        method = {"MutualInfo": "ANTs-MI", "Ours": "ANTs-Ours"}.get(row, f"ANTs-{_slug(row)}")
        step = table.add(register_step(settings, source, method, "ants", features))
        read = partial(registration_dice, register_folder(settings, source, method))
        number = paper.get(row, {}).get(source.title, "")
        cells.append(Cell(row=row, column=source.title, paper=number, steps=(step,), read=read, why_not=source.missing))
    return cells


def _missing_network(row: str, source: PairSource, paper: dict) -> Cell:
    return Cell(
        row=row,
        column=source.title,
        paper=paper[row].get(source.title, ""),
        why_not=_GIVE_NETWORK.format(network_file(row)),
    )


def _dice_cells(settings: Settings, source: PairSource, row: str, step: str) -> list[Cell]:
    folder = register_folder(settings, source, _slug(row))
    readers = {"mean": registration_dice, "median": registration_median, "folds": registration_folds}
    return [
        Cell(
            row=row,
            column=f"{source.title} {name}",
            paper=FIGURE_5.get(row, {}).get(f"{source.title} {name}", ""),
            steps=(step,),
            read=partial(read, folder),
            why_not=source.missing,
        )
        for name, read in readers.items()
    ]


def _search_columns(settings: Settings, source: PairSource, method: str) -> dict[str, Callable[[], str]]:
    folder = search_folder(settings, source)

    def dice() -> str:
        numbers = search_numbers(folder, method)
        return f"{float(numbers['dice']):.3f} ± {float(numbers['dice_std']):.3f}"

    def folds() -> str:
        numbers = search_numbers(folder, method)
        return f"{100 * float(numbers['folded_share']):.3f} ± {100 * float(numbers['folded_share_std']):.3f}"

    return {source.title: dice, f"{source.title} folds": folds}


def _slug(row: str) -> str:
    return row.replace(" ", "-")
