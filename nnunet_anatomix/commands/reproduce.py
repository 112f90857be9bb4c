"""``nnunet-anatomix reproduce``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

log = logging.getLogger(__name__)

Name = Literal["table1", "table2", "table3", "table4", "table5", "table6", "figure5", "figure7", "figure8"]


def reproduce(
    table: Annotated[Name, tyro.conf.Positional],
    data: Path,
    out: Path,
    rows: tuple[str, ...] = (),
    datasets: tuple[str, ...] = (),
    pairs: tuple[str, ...] = (),
    shots: int | None = None,
    weights: str | None = None,
    starts: tuple[str, ...] = (),
    transfer: Path | None = None,
    networks: tuple[Path, ...] = (),
    templates: Path | None = None,
    brains: Path | None = None,
    templates_and_brains: Path | None = None,
    images: tuple[Path, ...] = (),
    miniature: bool = False,
    iterations: int | None = None,
    seeds: tuple[int, ...] | None = None,
    budgets: tuple[int, ...] | None = None,
    max_patch: int | None = None,
    batch: int | None = None,
    pretraining_steps: int | None = None,
    pretraining_side: int | None = None,
    overlap: float | None = None,
    dry_run: bool = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Run a table or figure of the paper, from prepared datasets to its numbers beside ours; killed, it goes on.

    What each needs, and how long it takes, is in docs/reproduce.md. Without flags that make it
    smaller, all is run as in the paper.

    Args:
        table: Of the paper.
        data: nnUNet_raw, with what nnunet-anatomix prepare wrote.
        out: Folder for everything; tables may share it, and then share what they have in common.
        rows: Rows to run, as the table names them; all if left out.
        datasets: To segment, in place of the paper's: names of prepare, or IDs or names of any
            dataset in --data.
        pairs: To register, in place of the paper's: l2r-abdomen, mm-whs, or other folders with
            validation.csv, test.csv and pairs.json.
        shots: Volumes to fine-tune on; the paper's if left out.
        weights: Ours: a weights file or hf://owner/repo/file@revision; the bundled ones if left
            out.
        starts: More rows of Table 1: weights files, or stock for nnU-Net's own trainer.
        transfer: Weights for Table 1's transfer learning; trained on neurite-oasis if left out.
        networks: More rows of Tables 2 and 5: weights files, or .json of other networks.
        templates: Bank of organ templates, for Table 3 and Fig. 7.
        brains: Bank of whole brains, for the rows Brains.
        templates_and_brains: Bank of both, for the row Ours+Brains.
        images: Scans for Fig. 7; the first pair to register if left out.
        miniature: The whole way in minutes on a CPU; its numbers mean nothing.
        iterations: Of fine-tuning.
        seeds: Trainings of each kind.
        budgets: Numbers of labelled scans, for Fig. 8.
        max_patch: Cut patches of the planned grid, voxels, in place of Table 8's grid and patch.
        batch: Patches a step, in place of Table 8's.
        pretraining_steps: Of every pretraining.
        pretraining_side: Of synthetic volumes, voxels.
        overlap: Of the windows in which features are made for registration.
        dry_run: Print the commands, and run none.
        device: auto, cpu or cuda.
    """
    # Import torch, which --help does without.
    from dataclasses import replace

    from nnunet_anatomix.reproduce.run import dry_run as commands_of
    from nnunet_anatomix.reproduce.run import run
    from nnunet_anatomix.reproduce.settings import MINIATURE, Scale, Settings
    from nnunet_anatomix.reproduce.tables import TABLES
    from pretraining.common.device import resolve_device
    from pretraining.common.errors import InputError

    if not data.is_dir():
        raise InputError(f"--data: expected the folder that nnunet-anatomix prepare wrote into, found none at {data}")
    asked: dict[str, Any] = {
        "iterations": iterations,
        "seeds": seeds,
        "budgets": budgets,
        "max_patch": max_patch,
        "batch": batch,
        "pretraining_steps": pretraining_steps,
        "pretraining_side": pretraining_side,
        "overlap": overlap,
    }
    settings = Settings(
        data=data,
        out=out,
        scale=replace(
            MINIATURE if miniature else Scale(), **{name: value for name, value in asked.items() if value is not None}
        ),
        datasets=datasets,
        pairs=pairs,
        shots=shots,
        weights=weights,
        starts=starts,
        transfer=transfer,
        networks=networks,
        templates=templates,
        brains=brains,
        templates_and_brains=templates_and_brains,
        images=images,
        device=resolve_device(device).type,
    )
    planned = TABLES[table](settings).only(rows)
    if dry_run:
        sys.stdout.write(commands_of(planned, settings))
        return
    log.info("%s\nall of it is in %s", run(planned, settings), out)
