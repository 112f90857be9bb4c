"""What a user says about a reproduction: where the data are, what networks there are, and how much of the paper's schedule to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_anatomix.registration.tuning.grid import SearchGrid
from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run; the defaults are the paper's."""

    iterations: int = 37_500
    """Of fine-tuning."""
    seeds: tuple[int, ...] = (0,)
    """Trainings of each kind; the paper has one."""
    budgets: tuple[int, ...] = (1, 3, 5, 10, 20, 50, 100, 180)
    """Labelled scans of Fig. 8; the paper's own can't be read off its text."""
    max_patch: int | None = None
    """Cut patches, and the planned grid, in place of Table 8's; voxels."""
    batch: int | None = None
    """In place of Table 8's."""
    pretraining_steps: int = 600_000
    pretraining_side: int = 128
    """Of synthetic volumes, voxels."""
    overlap: float = 0.8
    """Of the windows that features are made in for registration."""
    grid: SearchGrid = field(default_factory=SearchGrid)
    """Of settings of ConvexAdam."""


MINIATURE = Scale(
    iterations=4,
    budgets=(1, 2),
    max_patch=32,
    batch=2,
    pretraining_steps=2,
    pretraining_side=32,
    overlap=0.25,
    grid=SearchGrid(smoothness=(0.75, 1.5), grid_spacing=(4,), reach=(1,), adam_spacing=(2,)),
)
"""Everything from end to end in minutes on a CPU: it shows that the commands work, and its numbers
mean nothing.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One reproduction."""

    data: Path
    """``nnUNet_raw``, with what ``prepare`` wrote."""
    out: Path
    scale: Scale = field(default_factory=Scale)
    datasets: tuple[str, ...] = ()
    """Segmentation: names of ``prepare``, or IDs or names of other datasets in ``data``; all of the
    table's if empty.
    """
    pairs: tuple[str, ...] = ()
    """Registration: ``l2r-abdomen``, ``mm-whs``, or other folders of pairs in ``data``; both if
    empty.
    """
    shots: int | None = None
    """Volumes to fine-tune on; the paper's if None."""
    weights: str | None = None
    """Ours; the bundled ones if None."""
    starts: tuple[str, ...] = ()
    """More rows to fine-tune from: weights files, or ``stock``."""
    transfer: Path | None = None
    """Weights for the row of transfer learning; made on neurite-oasis if None."""
    networks: tuple[Path, ...] = ()
    """JSON files of other networks, and weights files, as more rows of features."""
    templates: Path | None = None
    """Bank of organ templates."""
    brains: Path | None = None
    """Bank of whole brains."""
    templates_and_brains: Path | None = None
    """Bank of both."""
    images: tuple[Path, ...] = ()
    """Scans of Fig. 7."""
    device: str = "auto"

    def __post_init__(self) -> None:
        for path in (
            self.transfer,
            self.templates,
            self.brains,
            self.templates_and_brains,
            *self.networks,
            *self.images,
        ):
            if path is not None and not path.exists():
                raise InputError(f"no such file {path}; correct its name, or leave its flag out")
