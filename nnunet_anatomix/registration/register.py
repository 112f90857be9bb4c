"""Register two scans: start, descriptors, solver, transform (Sec. 4.1)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.apply import move_image, move_labels
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.inputs import Features, Scan, load_features, to_itk
from nnunet_anatomix.registration.prepare import Problem, load_network, prepare
from nnunet_anatomix.registration.solve import Solution, solve
from nnunet_anatomix.registration.start.initial import Start
from nnunet_anatomix.registration.timing import time_stage
from nnunet_anatomix.registration.transforms import find_sources, total_displacement_mm
from nnunet_anatomix.registration.warp import displacement_of, invert, itk_transform
from nnunet_anatomix.registration.writing import measure, write_registration
from pretraining.backbone.external import ExternalNetwork
from pretraining.backbone.feature_network import FeatureWeights
from pretraining.backbone.inference import Clip
from pretraining.backbone.inference_memory import available_bytes
from pretraining.backbone.unet import UNet
from pretraining.common.errors import InputError
from pretraining.common.finite import require_finite
from pretraining.common.lock import hold_lock
from pretraining.imaging.contrast import check_contrast
from pretraining.imaging.grids import resample_image
from pretraining.imaging.limits import check_window
from pretraining.imaging.scans import validate_scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, repr=False)
class Registration:
    """Result of a registration; transforms map points in mm, as ITK's resamplers expect.

    Attributes:
        moved: Moving scan on the fixed grid.
        forward: Transform from points of the fixed scan to points of the moving scan.
        inverse: Transform from points of the moving scan to points of the fixed scan.
        start: Initial transform; ``forward`` applies the displacement first, then the start.
        displacement, inverse_displacement: (3, X, Y, Z), voxels of ``grid``, without the start.
        known: (X, Y, Z) in {0, 1} on ``grid``, 1 where both scans are known under the start.
        grid: Image on the grid of the displacements, over the fixed scan's box: the working
            grid, or the solver's coarser grid where memory is scarce.
        fixed, moving: Scans after validation.
        seconds: Stage → duration, s.
        settings: Settings after they were reduced to fit into memory.
    """

    moved: sitk.Image
    forward: sitk.Transform
    inverse: sitk.Transform
    start: Start
    displacement: Tensor
    inverse_displacement: Tensor
    known: Tensor
    grid: sitk.Image
    fixed: sitk.Image
    moving: sitk.Image
    seconds: dict[str, float]
    settings: dict[str, object]

    def __repr__(self) -> str:
        grid = "x".join(map(str, self.grid.GetSize()))
        return f"Registration({self.settings['method']}, grid {grid}, {sum(self.seconds.values()):.1f} s)"

    def apply(self, image: Scan) -> sitk.Image:
        """Move an image that lies on the moving scan to the fixed grid, by linear interpolation.

        Args:
            image: Image with three axes and one number per voxel, on any grid, of SimpleITK or
                nibabel; file; or (X, Y, Z) array of numpy or torch on the grid of the moving scan.

        Returns:
            The image on the fixed grid, of the same type; its minimum where it is unknown.

        Raises:
            InputError: If it is not such an image.
        """
        return move_image(to_itk(image, "image", like=self.moving), self.fixed, self.forward)

    def apply_labels(self, labels: Scan) -> sitk.Image:
        """Move labels of the moving scan to the fixed grid, by nearest neighbour.

        Args:
            labels: Labels on any grid, in the types that :meth:`apply` accepts.

        Returns:
            The labels on the fixed grid, type and values kept; 0 where they are unknown.

        Raises:
            InputError: If they do not have three axes and one number per voxel.
        """
        return move_labels(to_itk(labels, "labels", like=self.moving), self.fixed, self.forward)

    def apply_points(self, points_mm: np.ndarray) -> np.ndarray:
        """Move points of the moving scan to the fixed scan, as :meth:`apply` moves the image.

        Args:
            points_mm: (N, 3), LPS, mm.

        Returns:
            (N, 3), LPS, mm.

        Raises:
            InputError: If the points have another shape or are not finite.

        Notes:
            For points of the fixed scan use ``forward.TransformPoint``.
        """
        points = np.asarray(points_mm, dtype=float)
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise InputError(f"points: expected finite numbers of shape (N, 3), found {points.shape}; check them")
        return find_sources(self.forward, points)[0]

    def displacement_mm(self) -> np.ndarray:
        """Compute where each voxel of the fixed scan comes from in the moving scan.

        Returns:
            (3, X, Y, Z) float32, mm, LPS: the position in the moving scan less that in the fixed
            scan, the start included.
        """
        return total_displacement_mm(self.forward, self.fixed)

    def save(self, folder: str | Path) -> None:
        """Write all files of the registration, as ``nnunet-anatomix register`` does.

        Args:
            folder: Folder for the files, created if missing.

        Raises:
            InputError: If the folder cannot be written.
            InUse: If another process writes into it.
        """
        folder = Path(folder)
        with hold_lock(folder):
            write_registration(folder, self, measure(self), pair=folder.resolve().name)


def register(
    fixed: Scan,
    moving: Scan,
    *,
    features: Features = None,
    config: RegistrationConfig | None = None,
    fixed_spacing_mm: Sequence[float] | None = None,
    moving_spacing_mm: Sequence[float] | None = None,
    fixed_mask: Scan = None,
    moving_mask: Scan = None,
    fixed_clip: Clip | None = None,
    moving_clip: Clip | None = None,
    memory: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    weights: FeatureWeights | UNet | ExternalNetwork | None = None,
) -> Registration:
    """Register a moving scan to a fixed one of any modality, grid and orientation.

    Args:
        fixed: Fixed scan, three-dimensional, one channel: image of SimpleITK or nibabel, file, or
            (X, Y, Z) array of numpy or torch.
        moving: Moving scan, likewise.
        features: Name or file of weights, ``bundled``, weights, or network. Default: MIND-SSC
            alone, which measures best so far (docs/results.md).
        config: Settings. Default: :class:`RegistrationConfig`, which suits most pairs.
        fixed_spacing_mm: Spacing of a fixed scan that is an array, along X, Y and Z.
        moving_spacing_mm: Spacing of a moving scan that is an array.
        fixed_mask: Mask of the fixed scan, above 0 where it counts. Default: everywhere.
        moving_mask: Mask of the moving scan, above 0 where it counts. Default: everywhere.
        fixed_clip: Intensity range to which the fixed scan is clipped before it is compared, e.g.
            (-450, 450) HU. Default: no clipping.
        moving_clip: Intensity range of the moving scan, likewise.
        memory: Memory above PyTorch's own, bytes. Default: most of what is free.
        device: Device of features and displacements.
        progress: Show progress bars.
        weights: Former name of ``features``.

    Returns:
        The moved scan, the transforms and the settings in effect.

    Raises:
        InputError: If a scan cannot be registered (see :mod:`pretraining.imaging.scans`), a clip
            leaves no contrast, the scans do not overlap, or the memory does not suffice.
        NotFinite: If descriptors or solver compute NaN or infinity.
    """
    config = config or RegistrationConfig()
    if weights is not None:
        warnings.warn("register(weights=...) is now register(features=...)", DeprecationWarning, stacklevel=2)
        features = weights
    if features is None:
        config = replace(config, descriptors=replace(config.descriptors, feature_weight=0.0))
    fixed = to_itk(fixed, "fixed", spacing_mm=fixed_spacing_mm)
    moving = to_itk(moving, "moving", spacing_mm=moving_spacing_mm)
    fixed_mask, moving_mask = (
        None if mask is None else to_itk(mask, f"{role} mask", like=scan)
        for mask, role, scan in ((fixed_mask, "fixed", fixed), (moving_mask, "moving", moving))
    )
    check_window(fixed_clip, "clip of the fixed scan")
    check_window(moving_clip, "clip of the moving scan")
    fixed, moving = validate_scan(fixed, "fixed"), validate_scan(moving, "moving")
    check_contrast(fixed, fixed_clip, "clip of the fixed scan")
    check_contrast(moving, moving_clip, "clip of the moving scan")
    seconds: dict[str, float] = {}
    problem, scans = prepare(
        fixed,
        moving,
        config,
        net=load_network(
            load_features(features) if config.descriptors.feature_weight else None, config, torch.device(device)
        ),
        masks=(fixed_mask, moving_mask),
        clips=(fixed_clip, moving_clip),
        memory=available_bytes(torch.device("cpu")) if memory is None else memory,
        device=torch.device(device),
        seconds=seconds,
    )
    solution = solve(problem, scans, seconds, progress)
    del scans  # the transforms need their memory
    return _assemble(problem, solution, seconds)


def _assemble(problem: Problem, solution: Solution, seconds: dict[str, float]) -> Registration:
    """Turn the displacement into transforms both ways, and apply the forward one."""
    config, budget, start = problem.config, problem.budget, problem.start
    displacement, inverse, grid, known = solution
    with time_stage(seconds, "transforms"):
        inverse = invert(displacement) if inverse is None else inverse
        require_finite(inverse, "inverse displacement field")
        forward = sitk.CompositeTransform([start.transform, itk_transform(displacement, grid)])
        backward = _inverse_transform(start, displacement, inverse, grid)
        moved = resample_image(problem.moving, problem.fixed, forward)
    return Registration(
        moved=moved,
        forward=forward,
        inverse=backward,
        start=start,
        displacement=displacement,
        inverse_displacement=inverse,
        known=known,
        grid=grid,
        fixed=problem.fixed,
        moving=problem.moving,
        seconds=seconds,
        settings={
            "method": config.method,
            "init": config.init,
            "affine": config.stage,
            "descriptors": budget.descriptors,
            "solver": config.program or {"convexadam": budget.solver, "ants": config.ants, "none": None}[config.solver],
            "clip": problem.clips,
        },
    )


def _inverse_transform(start: Start, displacement: Tensor, inverse: Tensor, grid: sitk.Image) -> sitk.Transform:
    """Invert displacement and start, jointly if the start is not linear."""
    if start.transform.IsLinear():
        return sitk.CompositeTransform([itk_transform(inverse, grid), start.transform.GetInverse()])
    total = displacement_of(sitk.CompositeTransform([start.transform, itk_transform(displacement, grid)]), grid)
    return itk_transform(invert(total), grid)
