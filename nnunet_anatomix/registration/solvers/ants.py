"""SyN, the symmetric diffeomorphic solver of ANTs, on images or on feature channels (App. B.4).

ANTs runs in a process of its own: it ignores Ctrl-C, fixes its number of threads once for all,
prints to the terminal and crashes on what it dislikes, and none of this should befall a program
that calls it.
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

# Of the package ants only its library is imported, which takes a tenth of a second rather than two.
# The default action of SIGPIPE, which Python ignores, ends ANTs at its next iteration where the
# program that started it is gone.
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
    """At most so many; a level ends earlier where it converged."""
    shrink_factors: tuple[int, ...] = (3, 2, 1)
    """Along the axis of the smallest spacing; ANTs shrinks others less, to make voxels isotropic.

    """
    smoothing_sigmas_vox: tuple[float, ...] = (3, 2, 0)
    """Of the Gaussian before shrinking, voxels of the full grid."""
    sampling: float = 0.666
    """Share of voxels that the similarity reads, drawn at random."""
    mi_bins: int = 48
    """Of each axis of the joint histogram."""
    feature_weight: float = 0.1
    """Of each channel's mean squares; since SyN sets the length of its steps, a factor common to
    all terms changes nothing.
    """

    def __post_init__(self) -> None:
        levels = len(self.iterations)
        if not levels or {len(self.shrink_factors), len(self.smoothing_sigmas_vox)} != {levels}:
            raise InputError(
                f"SyN's iterations, shrink_factors and smoothing_sigmas_vox need one entry per level each, found {self}"
            )
        check_not_negative(iterations=self.iterations, smoothing_sigmas_vox=self.smoothing_sigmas_vox)
        check_count(shrink_factors=self.shrink_factors)
        check_positive(gradient_step=self.gradient_step, feature_weight=self.feature_weight)
        check_within("(0, 1]", sampling=self.sampling)
        check_within("[5, inf)", mi_bins=self.mi_bins)  # a histogram's outermost two bins on each side stay empty


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
    """Register two images, or their features, by SyN.

    Args:
        fixed, moving: (C, X, Y, Z) finite floats, both on ``grid``.
        grid: Any image on the grid; its spacing matters, where it lies does not.
        metric: ``mi``, mutual information, for images; ``mean_squares`` for features. One term a
            channel.
        config: Defaults to the paper's.
        fixed_mask, moving_mask: (X, Y, Z), above 0 where an image counts; None for everywhere. ANTs
            compares where both count.
        seed: Of the random choice of voxels, 0 or more.
        threads: None for all cores, or what ``ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS`` says. Only
            with 1 results repeat to the last bit.
        progress: Called after every iteration.

    Returns:
        Forward and inverse displacement, (3, X, Y, Z) float32, voxels of ``grid``, on the device of
        ``fixed``. Pulled along the forward one (:func:`~nnunet_anatomix.registration.warp.warp`),
        ``moving`` comes onto ``fixed``; along the inverse one, ``fixed`` onto ``moving``.

    Raises:
        InputError: If antspyx is not installed, or a mask is empty.
        CommandFailed: If ANTs fails.

    Notes:
        ANTs first rescales every channel of either image to [0, 1] by its extremes, inside the
        masks or not: outliers must be clipped beforehand, and channels weigh alike whatever their
        contrast.

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, MedIA
        2008.
    """
    config = config or AntsConfig()
    if not (package := find_spec("ants")) or not package.submodule_search_locations:
        raise InputError(
            "the solver ants needs antspyx, which is not installed; run: pip install 'nnunet-anatomix[ants]'"
        )
    if fixed.shape != moving.shape or tuple(fixed.shape[1:]) != grid.GetSize():
        raise ValueError(
            f"need two (C, X, Y, Z) of one shape on a grid of {grid.GetSize()}, got {fixed.shape} and {moving.shape}"
        )
    # ANTs sees the grid along its own axes: the file format's rounding of origins and directions
    # then has nothing to round.
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
    """A displacement field that ANTs wrote; its writer does not report a full disk either."""
    try:
        return sitk.Cast(load_image(path, vectors=True)[0], sitk.sitkVectorFloat64)
    except Rejected as reason:
        raise CommandFailed(
            f"ANTs' registration left a damaged file ({reason}); is there room in {path.parent.parent}?"
        ) from None


def _masks(fixed: Tensor | None, moving: Tensor | None, shape: torch.Size) -> dict[str, Tensor]:
    """Both masks as (X, Y, Z) uint8, or none: where there is one, ANTs takes two."""
    if fixed is None and moving is None:
        return {}
    masks: dict[str, Tensor] = {}
    for role, mask in (("fixed", fixed), ("moving", moving)):
        masks[role] = torch.ones(shape, dtype=torch.uint8) if mask is None else (mask > 0).to(torch.uint8)
        if not masks[role].any():
            raise InputError(
                f"expected a {role} mask that is above 0 somewhere, found an empty one; correct it or leave it out"
            )
    return masks


def _arguments(config: AntsConfig, metric: str, channels: int, masked: bool, seed: int) -> list[str]:
    """Of antsRegistration, as in the paper."""
    kind, weight, bins = ("MI", 1.0, config.mi_bins) if metric == "mi" else ("MeanSquares", config.feature_weight, 1)
    terms = (
        f"{kind}[fixed{c}.nii,moving{c}.nii,{weight:g},{bins},Random,{config.sampling:g}]" for c in range(channels)
    )
    levels = {
        "--convergence": "x".join(map(str, config.iterations)),
        "--shrink-factors": "x".join(map(str, config.shrink_factors)),
        "--smoothing-sigmas": "x".join(f"{sigma:g}" for sigma in config.smoothing_sigmas_vox) + "vox",
    }
    # ANTs takes a seed of 0 for the time of day.
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
        told = (
            [line for line in lines if "error" in line.lower()]
            or [line for line in lines if line]
            or ["it said nothing"]
        )
        reason = "it was killed, by somebody or for lack of memory" if process.returncode == -9 else told[-1][:300]
        raise CommandFailed(f"ANTs' registration failed with exit code {process.returncode}: {reason}")
