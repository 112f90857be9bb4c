"""Settings of a reproduction: data, networks and size of the computations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_anatomix.registration.tuning.grid import SearchGrid
from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Size of the computations; the defaults are those of the paper."""

    iterations: int = 37_500
    """Iterations of fine-tuning."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings of each kind; the paper has one."""
    budgets: tuple[int, ...] = (1, 3, 5, 10, 20, 50, 100, 180)
    """Numbers of labelled scans of Fig. 8; the paper gives its own only in the figure."""
    max_patch: int | None = None
    """Longest side of patches of the planned grid, voxels. Default: grid and patch of Table 8."""
    batch: int | None = None
    """Patches per step. Default: as in Table 8."""
    pretraining_steps: int = 600_000
    """Steps of each pretraining."""
    pretraining_side: int = 128
    """Side of synthetic volumes, voxels."""
    overlap: float = 0.8
    """Overlap of the network's windows in registration, share of their side."""
    grid: SearchGrid = field(default_factory=SearchGrid)
    """Grid of ConvexAdam's settings."""


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
"""Size that runs everything in minutes on a CPU; it proves that the commands work, not more."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one reproduction."""

    data: Path
    """Folder ``nnUNet_raw``, prepared with ``prepare``."""
    out: Path
    """Folder for the results."""
    scale: Scale = field(default_factory=Scale)
    """Size of the computations."""
    datasets: tuple[str, ...] = ()
    """Datasets to segment: names of ``prepare``, or IDs or names in ``data``. Empty: all."""
    pairs: tuple[str, ...] = ()
    """Pairs to register: ``l2r-abdomen``, ``mm-whs``, or folders of pairs. Empty: both."""
    shots: int | None = None
    """Volumes for fine-tuning. Default: as in the paper."""
    weights: str | None = None
    """Weights of the rows Ours. Default: the bundled ones."""
    starts: tuple[str, ...] = ()
    """More starts of fine-tuning: weights files, or ``stock``."""
    transfer: Path | None = None
    """Weights for transfer learning. Default: trained on neurite-oasis."""
    networks: tuple[Path, ...] = ()
    """More rows of features: JSON files of other networks, or weights files."""
    programs: tuple[str, ...] = ()
    """More rows of Fig. 5: JSON files of other programs, or names of shipped ones."""
    templates: Path | None = None
    """Bank of organ templates."""
    brains: Path | None = None
    """Bank of whole brains."""
    templates_and_brains: Path | None = None
    """Bank of both."""
    images: tuple[Path, ...] = ()
    """Scans of Fig. 7. Empty: the first pair to register."""
    device: str = "auto"
    """Flag ``--device`` of all commands."""

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
                raise InputError(f"no such file {path}; correct the path, or omit its flag")
