"""Tables 1 and 6 and Figure 8: fine-tuning on few volumes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunet_anatomix.datasets.catalog import SEGMENTATION
from nnunet_anatomix.reproduce.commands import network_file, network_rows, our_start, study_step
from nnunet_anatomix.reproduce.plan import Cell, Step, Table
from nnunet_anatomix.reproduce.published import TABLE_1, TABLE_6
from nnunet_anatomix.reproduce.results import study_dice
from nnunet_anatomix.reproduce.settings import Settings
from nnunet_anatomix.reproduce.sources import SegmentationSource, segmentation_sources
from nnunet_anatomix.study.runs import start_name

_GIVE_NETWORK = "needs --networks {}; nnunet-anatomix baseline writes it for downloaded weights"
_AMOS_TRAINING = 180
"""Number of training volumes of AMOS-CT."""
_UNPUBLISHED = "WUFetal was never published"
_OTHER_NETWORKS = ("Models Genesis", "MedicalNet", "PrimGeoSeg", "SMIT", "Disruptive AE")
_SEED_NOTE = "Volumes for fine-tuning are drawn with the seed; the paper names neither its volumes nor its split."


def table_1(settings: Settings) -> Table:
    """Build Table 1: few-shot segmentation, full supervision and transfer learning."""
    table = Table(
        name="table1", title="Table 1. Few-shot 3D segmentation: mean Dice and its bootstrapped std over test subjects"
    )
    sources = segmentation_sources(settings, ("msd-heart", "promise12", "l2r-abdomen", "feta", "amos-ct"))
    transfer, transfer_steps, missing = _add_transfer(settings, table)
    for source in sources:
        rows = {"Rand Init": "scratch", "Transfer Learning": transfer, "Ours": our_start(settings)}
        rows |= {start_name(start): start for start in settings.starts} | _networks(settings, TABLE_1)
        for row, start in rows.items():
            after = transfer_steps if row == "Transfer Learning" else ()
            step = table.add(study_step(settings, source, (start,), (source.shots,), after))
            cell = _cell(settings, source, row, start, source.shots, step, TABLE_1)
            table.cells.append(replace(cell, why_not=cell.why_not or missing) if row == "Transfer Learning" else cell)
        step = table.add(study_step(settings, source, ("scratch",)))
        table.cells.append(_cell(settings, source, "Full supervision", "scratch", None, step, TABLE_1))
    table.cells += _missing_networks(settings, TABLE_1, [source.title for source in sources])
    if not settings.datasets:
        table.cells += [
            Cell(row=row, column="WUFetal", paper=numbers["WUFetal"], why_not=_UNPUBLISHED)
            for row, numbers in TABLE_1.items()
        ]
    table.notes.append(_SEED_NOTE)
    if settings.transfer is None:
        table.notes.append(
            "Transfer Learning starts from a training on neurite-oasis with the iterations of fine-tuning; "
            "the paper does not give its length."
        )
    return table


def figure_8(settings: Settings) -> Table:
    """Build Figure 8: Dice as a function of labelled volumes."""
    table = Table(name="figure8", title="Fig. 8. Dice over labelled volumes")
    for source in segmentation_sources(settings, ("amos-ct",)):
        starts = (("Rand Init", "scratch"), ("Ours", our_start(settings)))
        budgets = tuple(budget for budget in settings.scale.budgets if source.cases is None or budget <= source.cases)
        step = table.add(study_step(settings, source, tuple(start for _, start in starts), budgets))
        for row, start in starts:
            for budget in budgets:
                if (row, budget) == ("Rand Init", _AMOS_TRAINING):
                    row_of_table_1 = "Full supervision"
                else:
                    row_of_table_1 = row if budget == source.shots else ""
                column = f"{source.title}, {budget}"
                paper = {row: {column: TABLE_1.get(row_of_table_1, {}).get(source.title, "")}}
                table.cells.append(_cell(settings, source, row, start, budget, step, paper, column))
    table.notes += [
        "The numbers of volumes are ours, because the paper gives them only in the figure. "
        "Numbers of the paper are those of Table 1.",
        _SEED_NOTE,
    ]
    return table


def table_6(settings: Settings) -> Table:
    """Build Table 6: adult brains, the negative result."""
    table = Table(
        name="table6", title="Table 6. Few-shot segmentation of neurite-oasis: mean Dice and its bootstrapped std"
    )
    sources = segmentation_sources(settings, ("neurite-oasis",))
    for source in sources:
        rows = {"Rand Init": "scratch", "Ours": our_start(settings)} | _networks(settings, TABLE_6)
        for row, start in rows.items():
            step = table.add(study_step(settings, source, (start,), (source.shots,)))
            table.cells.append(_cell(settings, source, row, start, source.shots, step, TABLE_6))
    table.cells += _missing_networks(settings, TABLE_6, [source.title for source in sources])
    table.notes += [
        _SEED_NOTE,
        "The affinely aligned images of the dataset are used; the paper does not say which it uses.",
    ]
    return table


def _add_transfer(settings: Settings, table: Table) -> tuple[str, tuple[str, ...], str]:
    """Add the steps of transfer learning; return the weights, the last step and what is missing."""
    if settings.transfer is not None:
        return str(settings.transfer), (), ""
    source, folder = SEGMENTATION["neurite-oasis"], settings.out / "transfer"
    weights = folder / "transfer.safetensors"
    plans, model = "nnUNetAnatomixPlans", "AnatomixTrainerScratch"
    plan: tuple[str, ...] = (
        "nnunet-anatomix",
        "plan-and-preprocess",
        "-d",
        source.folder,
        "--iterations",
        str(settings.scale.iterations),
    )
    steps = [
        Step(name="transfer_plan", command=plan),
        Step(name="transfer_train", command=_train(settings, source.folder, model, plans), after=("transfer_plan",)),
        Step(
            name="transfer_export",
            command=(
                "nnunet-anatomix",
                "backbone",
                _checkpoint(settings, source.folder, model, plans),
                "--out",
                weights,
            ),
            after=("transfer_train",),
        ),
    ]
    missing = ""
    if not (settings.data / source.folder / "dataset.json").is_file():
        prepare = f"nnunet-anatomix prepare {source.key} --source DOWNLOAD --out {settings.data}"
        missing = f"needs --transfer WEIGHTS, or {prepare}"
    return str(weights), tuple(table.add(step) for step in steps)[-1:], missing


def _train(settings: Settings, dataset: str, trainer: str, plans: str) -> tuple[str, ...]:
    return (
        "nnUNetv2_train",
        dataset,
        "3d_fullres",
        "all",
        "-tr",
        trainer,
        "-p",
        plans,
        "--c",
        "-device",
        settings.device,
    )


def _checkpoint(settings: Settings, dataset: str, trainer: str, plans: str) -> Path:
    return (
        settings.out
        / "nnUNet_results"
        / dataset
        / f"{trainer}__{plans}__3d_fullres"
        / "fold_all"
        / "checkpoint_final.pth"
    )


def _cell(
    settings: Settings,
    source: SegmentationSource,
    row: str,
    start: str,
    shots: int | None,
    step: str,
    paper: dict,
    column: str = "",
) -> Cell:
    column = column or source.title
    read = partial(study_dice, settings, source, start, shots)
    return Cell(
        row=row,
        column=column,
        paper=paper.get(row, {}).get(column, ""),
        steps=(step,),
        read=read,
        why_not=source.missing,
    )


def _networks(settings: Settings, paper: dict) -> dict[str, str]:
    """Return row → start of each given network."""
    return {row: str(path) for row, path in network_rows(settings.networks, paper).items()}


def _missing_networks(settings: Settings, paper: dict, columns: list[str]) -> list[Cell]:
    """Return the cells of the paper's networks that were not given."""
    given = _networks(settings, paper)
    return [
        Cell(row=row, column=column, paper=paper[row][column], why_not=_GIVE_NETWORK.format(network_file(row)))
        for row in _OTHER_NETWORKS
        for column in columns
        if row not in given and column in paper.get(row, {})
    ]
