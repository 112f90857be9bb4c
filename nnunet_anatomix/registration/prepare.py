"""First stage of a registration: settings that fit the memory, the start, scans on one grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import Scan
from nnunet_anatomix.registration.memory import Budget, describe_cost, fit_to_memory
from nnunet_anatomix.registration.start.initial import Start, best_start, file_start, header_start
from nnunet_anatomix.registration.start.precise import START_VOXELS, refine_by_information
from nnunet_anatomix.registration.timing import time_stage
from pretraining.backbone.external import ExternalNetwork
from pretraining.backbone.feature_network import FeatureNetwork, FeatureWeights
from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.inference import Clip
from pretraining.backbone.unet import UNet
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError
from pretraining.imaging.grids import coverage, image_tensor, near_isotropic_grid, resample_image
from pretraining.imaging.scans import validate_labels

log = logging.getLogger(__name__)


class ChannelPair(NamedTuple):
    """A further channel of both scans, on the grids of the first channels."""

    images: tuple[sitk.Image, sitk.Image]
    clips: tuple[Clip | None, Clip | None]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Input of the solver, except for the resampled scans."""

    fixed: sitk.Image
    moving: sitk.Image
    config: RegistrationConfig
    budget: Budget
    net: FeatureNetwork | None
    clips: tuple[Clip | None, Clip | None]
    grid: sitk.Image
    """Working grid."""
    start: Start
    known: Tensor
    """(X, Y, Z) in {0, 1} on the working grid, on the CPU: 1 where both scans are known."""


def prepare(
    fixed: sitk.Image,
    moving: sitk.Image,
    config: RegistrationConfig,
    *,
    net: FeatureNetwork | None,
    masks: tuple[sitk.Image | None, sitk.Image | None],
    clips: tuple[Clip | None, Clip | None],
    memory: int,
    device: torch.device,
    seconds: dict[str, float],
    more: Sequence[ChannelPair] = (),
) -> tuple[Problem, list[Scan]]:
    """Fit the settings to the memory, find the start and resample both scans to the grid.

    ``more`` are further channels of both scans; the start is found with the first channel alone.
    """
    roles = ((masks[0], fixed, "fixed mask"), (masks[1], moving, "moving mask"))
    fixed_mask, moving_mask = (
        None if mask is None else validate_labels(mask, scan, role) for mask, scan, role in roles
    )
    masks = (fixed_mask, moving_mask)
    channels = [image for pair in more for image in pair.images]
    images = (fixed, moving, fixed, *channels, *(mask for mask in masks if mask is not None))
    held_bytes = sum(image.GetNumberOfPixels() * 4 for image in images)
    spacing_mm = config.working_spacing_mm(fixed.GetSpacing())
    full_grid = near_isotropic_grid(fixed, spacing_mm=spacing_mm)
    # The estimate is that of one channel; descriptors, its largest part, are held of all of them.
    memory = (memory - held_bytes) // (1 + len(more)) + held_bytes
    budget = fit_to_memory(full_grid.GetSize(), held_bytes, config.descriptors, config.convexadam, net, memory)
    grid = near_isotropic_grid(fixed, spacing_mm=spacing_mm, at_most_voxels=budget.voxels)
    if config.solver == "convexadam" and config.program is None:
        log.info("%s", describe_cost(grid, budget))
    with time_stage(seconds, "start"):
        start = _find_start(fixed, moving, config, net, clips, masks)
        if config.is_linear:
            precise = refine_by_information(fixed, moving, start.transform, config.stage, clips=clips, masks=masks)
            start = replace(start, transform=precise)
    with time_stage(seconds, "resampling"):
        scans = _resample_scans(fixed, moving, grid, start.transform, masks, clips, device)
        further = [_resample_scans(*pair.images, grid, start.transform, masks, pair.clips, device) for pair in more]
        scans = [replace(scan, more=tuple(pair[side] for pair in further)) for side, scan in enumerate(scans)]
    shape, least = tuple(scans[0].image.shape), budget.solver.least_side
    if min(shape) < least:
        raise InputError(
            f"the fixed scan has {shape} voxels on the working grid, expected at least {least} along every axis; "
            "set a finer spacing"
        )
    known = torch.ones_like(scans[0].image)
    for scan in scans:
        known = known if scan.known is None else known * scan.known
    if not known.any():
        raise InputError(
            "the masks of the fixed and moving scan do not overlap under the start; check the masks, or omit them"
        )
    problem = Problem(
        fixed=fixed,
        moving=moving,
        config=config,
        budget=budget,
        net=net,
        clips=clips,
        grid=grid,
        start=start,
        known=known.cpu(),
    )
    return problem, scans


def load_network(
    weights: FeatureWeights | UNet | ExternalNetwork | None, config: RegistrationConfig, device: torch.device
) -> FeatureNetwork | None:
    """Load the feature network to ``device``; return None where features have no weight."""
    if not config.descriptors.feature_weight:
        return None
    if weights is None:
        weights = load_weights(find_weights())
    net = weights if isinstance(weights, UNet | ExternalNetwork) else weights.network()
    return net.to(device).eval()


def _find_start(
    fixed: sitk.Image,
    moving: sitk.Image,
    config: RegistrationConfig,
    net: FeatureNetwork | None,
    clips: tuple,
    masks: tuple,
) -> Start:
    options: dict[str, Any] = {"net": net, "stage": config.stage, "clips": clips, "masks": masks}
    if config.is_linear:
        options["voxels"] = START_VOXELS
    if config.init == "auto":
        return best_start(fixed, moving, config.descriptors, **options)
    given = header_start(fixed, moving) if config.init == "none" else file_start(Path(config.init), fixed, moving)
    if config.stage == "none":
        return given
    if not given.transform.IsLinear():
        raise InputError(
            "the initial transform is not linear, expected a linear one for a rigid or affine stage; use --affine none"
        )
    return best_start(fixed, moving, config.descriptors, given=given, **options)


def _resample_scans(
    fixed: sitk.Image,
    moving: sitk.Image,
    grid: sitk.Image,
    start: sitk.Transform,
    masks: tuple,
    clips: tuple,
    device: torch.device,
) -> list[Scan]:
    scans = []
    for scan, transform, mask, clip in zip((fixed, moving), (sitk.Transform(), start), masks, clips, strict=True):
        known = coverage(scan, grid, transform)
        if mask is not None:
            known *= image_tensor(resample_image(sitk.Cast(mask != 0, sitk.sitkUInt8), grid, transform, nearest=True))
        if not known.any():
            raise InputError("a mask is empty where the scans overlap; check the masks, or omit them")
        image = image_tensor(resample_image(scan, grid, transform)).to(device)
        scans.append(Scan(image=image, known=None if bool(known.all()) else known.to(device), clip=clip))
    return scans
