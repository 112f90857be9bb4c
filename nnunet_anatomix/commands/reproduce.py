"""``nnunet-anatomix reproduce``."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pretraining.common.rare_flags import Rare

if TYPE_CHECKING:
    from nnunet_anatomix.reproduce.settings import Scale

log = logging.getLogger(__name__)

Name = Literal["table1", "table2", "table3", "table4", "table5", "table6", "figure5", "figure7", "figure8"]


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Flags of the data of a table."""

    datasets: tuple[str, ...] = ()
    """Datasets to segment: names of prepare, or IDs or names in --data. Default: the paper's."""
    pairs: tuple[str, ...] = ()
    """Pairs to register: l2r-abdomen, mm-whs, or folders of pairs. Default: the paper's."""
    shots: Rare[int | None] = None
    """Volumes for fine-tuning. Default: as in the paper."""
    images: Rare[tuple[Path, ...]] = ()
    """Scans for Fig. 7. Default: the first pair to register."""


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """Flags of the networks that a table compares."""

    weights: str | None = None
    """Weights of the rows Ours: file or hf://owner/repo/file@revision. Default: bundled."""
    starts: Rare[tuple[str, ...]] = ()
    """More rows of Table 1: weights files, checkpoints of nnssl, or stock for nnU-Net's trainer."""
    transfer: Rare[Path | None] = None
    """Weights for transfer learning in Table 1. Default: trained on neurite-oasis."""
    networks: tuple[Path, ...] = ()
    """More rows of Tables 1, 2, 5 and 6: .json of other networks, or weights files."""
    programs: tuple[str, ...] = ()
    """More rows of Fig. 5: .json of other programs, or names of shipped ones, such as elastix."""
    templates: Rare[Path | None] = None
    """Bank of organ templates, for Table 3 and Fig. 7."""
    brains: Rare[Path | None] = None
    """Bank of whole brains, for the rows Brains."""
    templates_and_brains: Rare[Path | None] = None
    """Bank of both, for the row Ours+Brains."""


@dataclass(frozen=True, kw_only=True)
class ScaleFlags:
    """Flags of the size of the computations; None keeps the paper's."""

    iterations: int | None = None
    """Iterations of fine-tuning. Default: 37500."""
    seeds: tuple[int, ...] | None = None
    """Seeds, one training of each kind per seed. Default: 0."""
    budgets: Rare[tuple[int, ...] | None] = None
    """Numbers of labelled scans for Fig. 8. Default: 1 3 5 10 20 50 100 180."""
    max_patch: Rare[int | None] = None
    """Longest side of patches of the planned grid, voxels. Default: grid and patch of Table 8."""
    batch: Rare[int | None] = None
    """Patches per step. Default: as in Table 8."""
    pretraining_steps: Rare[int | None] = None
    """Steps of each pretraining. Default: 600000."""
    pretraining_side: Rare[int | None] = None
    """Side of synthetic volumes, voxels. Default: 128."""
    overlap: Rare[float | None] = None
    """Overlap of the feature windows in registration, share of their side. Default: 0.8."""

    def apply_to(self, scale: Scale) -> Scale:
        """Replace the values that were set."""
        from dataclasses import replace

        return replace(scale, **{name: value for name, value in asdict(self).items() if value is not None})


def reproduce(
    table: Annotated[Name, tyro.conf.Positional],
    data: Path,
    out: Path,
    sources: Annotated[DataFlags, tyro.conf.arg(name="")],
    networks: Annotated[NetworkFlags, tyro.conf.arg(name="")],
    scale: Annotated[ScaleFlags, tyro.conf.arg(name="")],
    rows: tuple[str, ...] = (),
    miniature: bool = False,
    dry_run: bool = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Run a table or figure of the paper, and compare its numbers with ours.

    Inputs and durations are in docs/reproduce.md. Without flags that make it smaller, everything is
    run as in the paper. If interrupted, run the same command again to resume.

    Args:
        table: Table or figure of the paper.
        data: Folder nnUNet_raw, prepared with nnunet-anatomix prepare.
        out: Folder for the results; tables in one folder share common steps.
        sources: Data of the table.
        networks: Networks to compare.
        scale: Size of the computations.
        rows: Names of the rows to run. Default: all.
        miniature: Run everything in minutes on a CPU; the numbers are meaningless.
        dry_run: Print the commands without running them.
        device: Device: auto, cpu or cuda.
    """
    # Import torch here, which --help does not need.
    from nnunet_anatomix.reproduce.run import format_commands, run
    from nnunet_anatomix.reproduce.settings import MINIATURE, Scale, Settings
    from nnunet_anatomix.reproduce.tables import TABLES
    from pretraining.common.device import resolve_device
    from pretraining.common.errors import InputError

    if not data.is_dir():
        raise InputError(f"--data: expected the folder that nnunet-anatomix prepare wrote into, found none at {data}")
    settings = Settings(
        data=data,
        out=out,
        scale=scale.apply_to(MINIATURE if miniature else Scale()),
        device=resolve_device(device).type,
        **vars(sources),
        **vars(networks),
    )
    planned = TABLES[table](settings).only(rows)
    if dry_run:
        sys.stdout.write(format_commands(planned, settings))
        return
    log.info("%s\nresults are in %s", run(planned, settings), out)
