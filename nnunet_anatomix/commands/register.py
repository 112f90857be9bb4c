"""``nnunet-anatomix register``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pretraining.common.errors import UsageError
from pretraining.common.rare_flags import Rare

if TYPE_CHECKING:
    import torch

    from nnunet_anatomix.registration.batch import BatchSettings, PairFiles
    from nnunet_anatomix.registration.config import RegistrationConfig
    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
    from nnunet_anatomix.registration.writing import WriteDicom

log = logging.getLogger(__name__)

Window = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class ScanFlags:
    """Flags of the scans to register."""

    fixed: Path | None = None
    """Fixed scan: file in a format of ITK, .mgz, or folder of one DICOM series."""
    moving: Path | None = None
    """Moving scan, likewise."""
    pairs: Path | None = None
    """CSV of many pairs, with columns fixed, moving and optionally name, init, and those below."""
    fixed_mask: Rare[Path | None] = None
    """Mask of the fixed scan, above 0 where it counts. Default: everywhere."""
    moving_mask: Rare[Path | None] = None
    """Mask of the moving scan, above 0 where it counts. Default: everywhere."""
    fixed_labels: Path | None = None
    """Label map of the fixed scan, for Dice."""
    moving_labels: Path | None = None
    """Label map of the moving scan, for Dice, which is moved too."""
    fixed_landmarks: Rare[Path | None] = None
    """Landmarks of the fixed scan: CSV with columns x,y,z in mm (LPS), or .fcsv of Slicer."""
    moving_landmarks: Rare[Path | None] = None
    """Landmarks of the moving scan, the same number in the same order."""
    fixed_clip: Window = None
    """Intensity range of the fixed scan, such as -450 450 for CT. Default: not clipped."""
    moving_clip: Window = None
    """Intensity range of the moving scan. Default: not clipped."""

    def pair_files(self, name: str) -> PairFiles:
        """Return the files of the single pair."""
        from nnunet_anatomix.registration.batch import PairFiles

        if self.fixed is None or self.moving is None:
            raise UsageError("expected scans to register; use --fixed and --moving, or --pairs CSV for many")
        return PairFiles(name=name, fixed=self.fixed, moving=self.moving, **self._references())

    def list_of_pairs(self) -> Path | None:
        """Return the CSV of many pairs, if any."""
        if self.pairs is not None and (self.fixed or self.moving or any(self._references().values())):
            raise UsageError(
                "with --pairs, scans, masks, labels and landmarks are columns of the CSV; omit their flags"
            )
        return self.pairs

    def _references(self) -> dict[str, Path | None]:
        return {
            "fixed_mask": self.fixed_mask,
            "moving_mask": self.moving_mask,
            "fixed_labels": self.fixed_labels,
            "moving_labels": self.moving_labels,
            "fixed_landmarks": self.fixed_landmarks,
            "moving_landmarks": self.moving_landmarks,
        }


@dataclass(frozen=True, kw_only=True)
class SolverFlags:
    """Flags of start and solver."""

    solver: Literal["convexadam", "ants", "none"] = "convexadam"
    """Solver: convexadam, ants (SyN), or none: a rigid or affine registration is the result."""
    program: Rare[str | None] = None
    """Another program instead: JSON file that describes it, or the name of a shipped one."""
    init: str = "auto"
    """Start: auto compares several, none uses headers, else a file (ITK, FSL, .lta, elastix)."""
    affine: Literal["none", "rigid", "affine"] | None = None
    """Linear alignment of the start. Default: affine with --init auto, else none."""
    spacing: Rare[float | None] = None
    """Spacing of the working grid, mm. Default: the fixed scan's, its finest if axes differ."""
    fast: bool = False
    """Work on a coarser grid if the slices of the fixed scan are thick."""
    smoothness: Rare[float | None] = None
    """Weight of the regularization. Default: 0.7."""
    regularization: Rare[Literal["bending", "diffusion"]] = "bending"
    """Penalty on the displacement: bending energy plus diffusion, or diffusion, as published."""
    grid_spacing: Rare[int | None] = None
    """Spacing of the coarse search's grid, voxels. Default: 6."""
    reach: Rare[int | None] = None
    """Greatest displacement of the coarse search, voxels of its grid. Default: 2."""
    adam_spacing: Rare[int | None] = None
    """Spacing of the descent's finest grid, voxels; 2 is faster and less accurate. Default: 1."""
    iterations: Rare[tuple[int, ...] | None] = None
    """Iterations of each level of the descent, coarse to fine; published: 80. Default: 40 40."""
    unfold: Rare[bool] = True
    """Smooth the displacement where it folds, until it does not; published: not."""
    dissimilarity: Rare[Literal["difference", "correlation"]] = "difference"
    """Descend on squared differences, or local correlations: slow, better for some pairs."""
    beyond: Rare[Literal["border", "zeros"]] = "border"
    """Values beyond the faces of the field of view; zeros, as published, hold the field there."""

    def config(self, descriptors: DescriptorConfig) -> RegistrationConfig:
        """Return the settings of a registration."""
        from nnunet_anatomix.registration.config import RegistrationConfig
        from nnunet_anatomix.registration.programs.program import read_program

        if self.program is not None and self.solver != "convexadam":
            raise UsageError("--program takes the place of --solver; omit one of them")
        return RegistrationConfig(
            solver=self.solver,
            init=self.init,
            affine=self.affine,
            spacing_mm=self.spacing,
            fast=self.fast,
            descriptors=descriptors,
            convexadam=self._convexadam(),
            program=None if self.program is None else read_program(self.program),
        )

    def _convexadam(self) -> ConvexAdamConfig:
        from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig as Config

        return Config(
            smoothness=Config.smoothness if self.smoothness is None else self.smoothness,
            regularization=self.regularization,
            grid_spacing=Config.grid_spacing if self.grid_spacing is None else self.grid_spacing,
            reach=Config.reach if self.reach is None else self.reach,
            adam_spacing=Config.adam_spacing if self.adam_spacing is None else self.adam_spacing,
            iterations=Config.iterations if self.iterations is None else self.iterations,
            unfold=self.unfold,
            dissimilarity=self.dissimilarity,
            beyond=self.beyond,
        )


@dataclass(frozen=True, kw_only=True)
class DescriptorFlags:
    """Flags of descriptors and network."""

    features: str = "none"
    """Features to compare too: bundled, a weights file, hf://owner/repo/file@revision, or .json."""
    mind: Rare[bool] = True
    """Compare MIND-SSC; --no-mind compares features alone."""
    intensity: Rare[bool] = False
    """Compare intensities too, as far as the scans agree in them: for scans of one contrast."""
    feature_weight: Rare[float | None] = None
    """Factor of the features relative to MIND-SSC. Default: 0.3."""
    overlap: Rare[float | None] = None
    """Overlap of the network's windows, share of their side. Default: 0.5."""
    precision: Rare[Literal["auto", "fp32", "bf16"]] = "auto"
    """Precision of the network: fp32, bf16, or auto (bf16 where it is faster)."""
    trust_code: Rare[bool] = False
    """Run code that a .json names even if it is not a torch.nn.Module, or comes from the hub."""
    statistics: Rare[Literal["running", "own"]] = "running"
    """Statistics of batch normalization: running averages of pretraining, or those of each scan."""

    def config(self, device: torch.device) -> DescriptorConfig:
        """Return the settings of the descriptors."""
        from nnunet_anatomix.registration.descriptors import DescriptorConfig
        from pretraining.common.device import has_bf16_units

        weight = 0.0 if self.features == "none" else self.feature_weight
        return DescriptorConfig(
            mind=self.mind or self.features == "none",  # ANTs then compares the scans themselves
            intensity=self.intensity,
            bf16=has_bf16_units(device) if self.precision == "auto" else self.precision == "bf16",
            overlap=DescriptorConfig.overlap if self.overlap is None else self.overlap,
            feature_weight=DescriptorConfig.feature_weight if weight is None else weight,
        )


def register(
    out: Path,
    scans: Annotated[ScanFlags, tyro.conf.arg(name="")],
    solver: Annotated[SolverFlags, tyro.conf.arg(name="")],
    descriptors: Annotated[DescriptorFlags, tyro.conf.arg(name="")],
    memory: str = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
    dicom: Rare[bool] = False,
) -> None:
    """Register a scan to another of any modality and grid, or many pairs.

    If interrupted with --pairs, run the same command again to resume.

    Args:
        out: Folder for the results; with --pairs, one subfolder per pair.
        scans: Scans to register.
        solver: Start and solver.
        descriptors: Descriptors and network.
        memory: Memory above PyTorch's own, such as 4G. Default: most of what is free.
        device: Device: auto, cpu or cuda.
        dicom: Write registration.dcm, a DICOM Spatial Registration (or Deformable Spatial
            Registration) of two DICOM folders, too.
    """
    from nnunet_anatomix.registration.batch import read_pairs, register_pairs
    from pretraining.common.outputs import try_folder

    pairs = scans.list_of_pairs()
    pair = scans.pair_files(out.resolve().name) if pairs is None else None
    if descriptors.features == "none" and not descriptors.mind and solver.solver == "convexadam":
        raise UsageError("--no-mind without features leaves nothing to compare; add --features bundled, or a file")
    if descriptors.features == "none" and descriptors.feature_weight:
        raise UsageError("--feature-weight needs features; add --features bundled, or a file")
    try_folder(out)
    settings = _load_settings(scans, solver, descriptors, memory, device, dicom)
    if pair is not None:
        _register_one(pair, out, settings)
    elif pairs is not None:
        done = register_pairs(read_pairs(pairs), out, settings)
        log.info("%d pairs registered; next: nnunet-anatomix evaluate registration %s", done, out)


def _load_settings(
    scans: ScanFlags,
    solver: SolverFlags,
    descriptors: DescriptorFlags,
    memory: str,
    device: Literal["auto", "cpu", "cuda"],
    dicom: bool,
) -> BatchSettings:
    from nnunet_anatomix.clinical.intake.single_scan import read_scan
    from nnunet_anatomix.registration.batch import BatchSettings
    from pretraining.backbone.external_weights import load_feature_weights
    from pretraining.common.byte_sizes import parse_bytes
    from pretraining.common.device import resolve_device

    resolved = resolve_device(device)
    described = descriptors.config(resolved)
    weights = None
    config = solver.config(described)
    if described.feature_weight:
        weights = load_feature_weights(
            descriptors.features,
            trust_code=descriptors.trust_code,
            statistics=descriptors.statistics,
        )
    return BatchSettings(
        config=config,
        weights=weights,
        fixed_clip=scans.fixed_clip,
        moving_clip=scans.moving_clip,
        memory=None if memory == "auto" else parse_bytes(memory),
        device=resolved,
        read_scan=read_scan,
        dicom_writer=_read_dicom_headers if dicom else None,
    )


def _read_dicom_headers(pair: PairFiles) -> WriteDicom:
    from nnunet_anatomix.clinical.delivery.spatial_registration import (
        read_registered_series,
        write_spatial_registration,
    )

    fixed, moving = (
        read_registered_series(path, role) for role, path in (("fixed", pair.fixed), ("moving", pair.moving))
    )
    return lambda path, forward: write_spatial_registration(path, fixed, moving, forward)


def _register_one(pair: PairFiles, out: Path, settings: BatchSettings) -> None:
    from nnunet_anatomix.registration.batch import register_pair
    from pretraining.common.lock import hold_lock

    with hold_lock(out):
        metrics = register_pair(pair, out, settings)
    for name in ("dice_before", "dice"):
        if values := metrics.get(name):
            log.info(
                "%s: %.3f, mean of %d labels", name.replace("_", " "), sum(values.values()) / len(values), len(values)
            )
    log.info("results are in %s; look at %s", out, out / "registration.html")
