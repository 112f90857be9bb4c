"""SyN, the symmetric diffeomorphic solver of ANTs, on images or on feature channels (App. B.4).

ANTs runs in a separate process, because it ignores Ctrl-C, fixes its number of threads for the
whole process, prints to the terminal, and can crash.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.warp import displacement_of
from pretraining.common.checks import check_count, check_not_negative, check_positive, check_within
from pretraining.common.errors import CommandFailed, InputError
from pretraining.imaging.grids import tensor_image
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.scans import load_image
from pretraining.imaging.writing import save_image

# Import only the library of the package ants, in 0.1 s rather than 2 s. Restore the default action
# of SIGPIPE, which Python ignores, so that ANTs ends when the parent process is gone.
_PROGRAM = """
import signal, sys, types
package = sys.modules["ants"] = types.ModuleType("ants")
package.__path__ = sys.argv[1:2]
from ants.lib import antsRegistration
if hasattr(signal, "SIGPIPE"):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
sys.exit(antsRegistration(sys.argv[2:]))
"""


@dataclass(frozen=True, kw_only=True)
class AntsConfig:
    """SyN as the paper runs it (App. B.4); one entry of each tuple per level, coarse to fine."""

    gradient_step: float = 0.15
    """Largest step of an iteration, voxels of its level."""
    iterations: tuple[int, ...] = (200, 200, 100)
    """Maximum number of iterations; a level ends earlier if it converges."""
    shrink_factors: tuple[int, ...] = (3, 2, 1)
    """Downsampling along the axis of the smallest spacing; ANTs makes voxels isotropic."""
    smoothing_sigmas_vox: tuple[float, ...] = (3, 2, 0)
    """Standard deviation of the Gaussian before downsampling, voxels of the full grid."""
    sampling: float = 0.666
    """Share of voxels sampled at random for the similarity."""
    mi_bins: int = 48
    """Bins along each axis of the joint histogram."""
    feature_weight: float = 0.1
    """Weight of each channel's mean squares; SyN normalizes steps, so a common factor cancels."""

    def __post_init__(self) -> None:
        levels = len(self.iterations)
        if not levels or {len(self.shrink_factors), len(self.smoothing_sigmas_vox)} != {levels}:
            raise InputError(
                "SyN: expected one entry per level in iterations, shrink_factors and smoothing_sigmas_vox, "
                f"found {self}"
            )
        check_not_negative(iterations=self.iterations, smoothing_sigmas_vox=self.smoothing_sigmas_vox)
        check_count(shrink_factors=self.shrink_factors)
        check_positive(gradient_step=self.gradient_step, feature_weight=self.feature_weight)
        check_within("(0, 1]", sampling=self.sampling)
        check_within("[5, inf)", mi_bins=self.mi_bins)  # the outermost two bins on each side stay empty


def syn_displacement(
    fixed: Tensor,
    moving: Tensor,
    grid: sitk.Image,
    *,
    metric: Literal["mi", "mean_squares"],
    config: AntsConfig | None = None,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Register two images, or their features, with SyN.

    Args:
        fixed: (C, X, Y, Z) finite floats on ``grid``.
        moving: (C, X, Y, Z) finite floats on ``grid``.
        grid: Image on the grid, of which only the spacing matters.
        metric: ``mi``, mutual information, for images; ``mean_squares`` for features. One term per
            channel.
        config: Settings. Default: those of the paper.
        fixed_mask: (X, Y, Z), above 0 where the fixed image counts. Default: everywhere.
        moving_mask: (X, Y, Z), above 0 where the moving image counts. Default: everywhere. ANTs
            compares where both masks are above 0.
        seed: Seed of the random sampling of voxels, >= 0.
        threads: Number of threads. Default: ``ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS``, or all cores.
            Results are bit-identical only with 1.
        progress: Function called after every iteration.

    Returns:
        Forward and inverse displacement, (3, X, Y, Z) float32, voxels of ``grid``, on the device of
        ``fixed``. The forward one warps ``moving`` onto ``fixed``
        (:func:`~nnunet_anatomix.registration.warp.warp`), the inverse one ``fixed`` onto
        ``moving``.

    Raises:
        InputError: If antspyx is not installed, or a mask is empty.
        CommandFailed: If ANTs fails.

    Notes:
        ANTs first rescales every channel of both images to [0, 1] by its extremes, regardless of
        the masks: clip outliers beforehand. Channels have equal weight whatever their contrast.

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, MedIA
        2008.
    """
    config = config or AntsConfig()
    if not (package := find_spec("ants")) or not package.submodule_search_locations:
        raise InputError("the solver ants needs antspyx, which is not installed; run: pip install antspyx")
    if fixed.shape != moving.shape or tuple(fixed.shape[1:]) != grid.GetSize():
        raise ValueError(
            f"need two (C, X, Y, Z) of one shape on a grid of {grid.GetSize()}, got {fixed.shape} and {moving.shape}"
        )
    # Give ANTs a grid with origin 0 and identity directions, which the file format does not round.
    axes_only = sitk.Image(grid.GetSize(), sitk.sitkUInt8)
    axes_only.SetSpacing(grid.GetSpacing())
    masks = _masks(fixed_mask, moving_mask, fixed.shape[1:])
    with TemporaryDirectory(prefix="anatomix-ants-") as name:
        folder = Path(name)
        for role, channels in (("fixed", fixed), ("moving", moving)):
            for channel, volume in enumerate(channels):
                save_image(folder / f"{role}{channel}.nii", tensor_image(volume.float(), axes_only))
        for role, mask in masks.items():
            save_image(folder / f"{role}_mask.nii", tensor_image(mask, axes_only))
        _run(
            package.submodule_search_locations[0],
            _arguments(config, metric, len(fixed), bool(masks), seed),
            folder,
            threads,
            progress,
        )
        fields = [_field(folder / f"0{kind}.nii.gz") for kind in ("Warp", "InverseWarp")]
    forward, inverse = (
        displacement_of(sitk.DisplacementFieldTransform(field), axes_only).to(fixed.device) for field in fields
    )
    return forward, inverse


def _field(path: Path) -> sitk.Image:
    """Read a displacement field of ANTs, whose writer does not report a full disk."""
    try:
        return sitk.Cast(load_image(path, vectors=True)[0], sitk.sitkVectorFloat64)
    except Rejected as reason:
        raise CommandFailed(
            f"ANTs wrote a damaged displacement field ({reason}); check the free space in {path.parent.parent}"
        ) from None


def _masks(fixed: Tensor | None, moving: Tensor | None, shape: torch.Size) -> dict[str, Tensor]:
    """Return both masks as (X, Y, Z) uint8, or none: ANTs takes two masks or none."""
    if fixed is None and moving is None:
        return {}
    masks: dict[str, Tensor] = {}
    for role, mask in (("fixed", fixed), ("moving", moving)):
        masks[role] = torch.ones(shape, dtype=torch.uint8) if mask is None else (mask > 0).to(torch.uint8)
        if not masks[role].any():
            raise InputError(
                f"expected a {role} mask that is above 0 somewhere, found an empty one; correct or omit it"
            )
    return masks


def _arguments(config: AntsConfig, metric: str, channels: int, masked: bool, seed: int) -> list[str]:
    """Return the arguments of antsRegistration."""
    kind, weight, bins = ("MI", 1.0, config.mi_bins) if metric == "mi" else ("MeanSquares", config.feature_weight, 1)
    terms = (
        f"{kind}[fixed{c}.nii,moving{c}.nii,{weight:g},{bins},Random,{config.sampling:g}]" for c in range(channels)
    )
    levels = {
        "--convergence": "x".join(map(str, config.iterations)),
        "--shrink-factors": "x".join(map(str, config.shrink_factors)),
        "--smoothing-sigmas": "x".join(f"{sigma:g}" for sigma in config.smoothing_sigmas_vox) + "vox",
    }
    # ANTs replaces a seed of 0 by the time of day.
    return [
        *("--verbose", "1", "--dimensionality", "3", "--float", "1", "--random-seed", str(seed + 1)),
        *("--output", "[./]", "--transform", f"SyN[{config.gradient_step:g}]"),
        *(word for term in terms for word in ("--metric", term)),
        *(word for option in levels.items() for word in option),
        *(("--masks", "[fixed_mask.nii,moving_mask.nii]") if masked else ()),
    ]


def _run(package: str, arguments: list[str], folder: Path, threads: int | None, progress: Callable[[], object]) -> None:
    environment = dict(os.environ)
    if threads is not None:
        environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    lines: deque[str] = deque(maxlen=50)
    command = [sys.executable, "-c", _PROGRAM, package, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, env=environment, text=True, errors="replace", **pipes) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.strip())
                if line.startswith(" 1DIAGNOSTIC"):  # a line of ANTs' report on an iteration
                    progress()
        except BaseException:
            process.kill()
            raise
    if process.returncode or not all((folder / f"0{kind}.nii.gz").is_file() for kind in ("Warp", "InverseWarp")):
        messages = (
            [line for line in lines if "error" in line.lower()]
            or [line for line in lines if line]
            or ["it printed nothing"]
        )
        reason = "it was killed, by a user or for lack of memory" if process.returncode == -9 else messages[-1][:300]
        raise CommandFailed(f"ANTs' registration failed with exit code {process.returncode}: {reason}")
