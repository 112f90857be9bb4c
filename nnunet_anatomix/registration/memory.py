"""Reduction of settings to a memory target: windows, descent, channels, search, working grid."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import prod

import SimpleITK as sitk

from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.solvers.convex import cost_bytes
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.inference_memory import window_bytes
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError
from pretraining.imaging.mind import CHANNELS as MIND_CHANNELS

log = logging.getLogger(__name__)

_FLOAT_BYTES = 4
_LIBRARY_BYTES = 350 * 2**20
"""Measured size of NumPy, SciPy, SimpleITK, Numba and compiled code, without PyTorch, bytes."""
_SCAN_VOLUMES = 6
"""Volumes of the working grid held throughout: both scans as images and tensors, and masks."""
_MIND_SLAB_BYTES = 30 * 2**19 * _FLOAT_BYTES
"""Peak of :func:`pretraining.imaging.mind.pooled_mind_ssc`, bytes."""
_INTENSITY_VOLUMES = 8
"""Volumes of the working grid that local intensities need at a time, measured: the foreground."""
_INTENSITY_CHANNELS = 5
"""Volumes of the descriptors' grid that they need besides, with the other scan's."""
_CORRELATION_VOLUMES = 50
"""Volumes of the descent's grid that local correlations need at a time, measured."""
_FIELD_VOLUMES = 15
"""Volumes held while a displacement is written: single and double precision, ITK's and ours."""
_MIN_CHANNELS = 8
_SAFETY = 0.93
"""Share of the target that estimates may reach."""
_MAX_FIELD_SHARE = 0.2
"""Share of the memory above which displacements are kept on a coarser grid."""
_SECONDS_PER_VOXEL = 1e-6
"""Measured time of one core per voxel of the working grid, without the descent, s."""
_SECONDS_PER_CHANNEL = {"difference": 1e-8, "correlation": 1.5e-7}
"""Measured time of one core per voxel, channel and iteration of the descent, s."""
LARGEST_GRID = 256**3
"""Maximum size of a working grid, voxels; finer ones cost hours and gain little."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Settings that keep to a memory target.

    Attributes:
        voxels: Maximum size of the working grid, voxels.
        descriptors, solver: Requested settings, reduced where necessary.
        coarse_fields: Keep displacements on the descent's grid; they are linear between its knots.
        needed_bytes: Estimated peak above PyTorch's own memory.
    """

    voxels: int
    descriptors: DescriptorConfig
    solver: ConvexAdamConfig
    coarse_fields: bool
    needed_bytes: int


def fit_to_memory(
    shape: tuple[int, int, int],
    scans_bytes: int,
    descriptors: DescriptorConfig,
    solver: ConvexAdamConfig,
    net: FeatureNetwork | None,
    memory: int,
) -> Budget:
    """Reduce settings until the estimated peak fits into ``memory``.

    Args:
        shape: Working grid before it is made coarser, voxels.
        scans_bytes: Size of all scans and masks on their own grids.
        descriptors: Requested descriptors.
        solver: Requested settings of ConvexAdam.
        net: Feature network; None for MIND-SSC alone.
        memory: Target above PyTorch's own memory, bytes.

    Returns:
        The reduced settings and the estimated peak.

    Raises:
        InputError: If the scans themselves, or the smallest window, are too large.
    """
    voxels, limit, memory = min(prod(shape), LARGEST_GRID), memory, int(_SAFETY * memory)
    least_side = max(32, net.config.min_side) if net is not None else 32
    fixed_bytes = scans_bytes + _LIBRARY_BYTES
    if fixed_bytes + _peak_bytes(32**3, shape, descriptors, solver, net) > memory:
        least = fixed_bytes + _peak_bytes(32**3, shape, _smallest_settings(descriptors, net), solver, net)
        if least > memory:
            raise InputError(
                f"registering these scans takes at least {format_bytes(least)}B of memory "
                f"({format_bytes(scans_bytes)}B for the scans), found a limit of {format_bytes(limit)}B; "
                "raise --memory, or resample or crop the scans"
            )
    requested = (descriptors, solver)
    if solver.adam_spacing == 1 and _fields_are_large(voxels, memory):
        solver = solver.without_finest_level()
    while (needed := fixed_bytes + _peak_bytes(voxels, shape, descriptors, solver, net)) > memory:
        features = net is not None and descriptors.feature_weight
        large = features and descriptors.side > max(64, least_side)
        if net is not None and large and _network_bytes(shape, voxels, descriptors, net) > 0.4 * memory:
            descriptors = replace(descriptors, side=max(64, least_side, descriptors.side - 32))
        elif solver.adam_spacing == 1:
            solver = solver.without_finest_level()
        elif (channels := descriptors.channels or descriptors.count(net)) > _MIN_CHANNELS and _descriptor_bytes(
            voxels, descriptors, solver, net
        ) > 0.5 * memory:
            descriptors = replace(descriptors, channels=max(_MIN_CHANNELS, channels * 3 // 4))
        elif solver.grid_spacing < 8 and cost_bytes(voxels // solver.grid_spacing**3, solver.reach) > 0.3 * memory:
            solver = replace(solver, grid_spacing=solver.grid_spacing + solver.adam_spacing)
        elif features and descriptors.side > least_side:
            descriptors = replace(descriptors, side=max(least_side, descriptors.side - 32))
        else:
            voxels = int(voxels * 0.9)
    if (descriptors, solver) != requested or voxels < prod(shape):
        log.info(
            "settings reduced to fit into %sB of memory: a grid of at most %d voxels, %s, %s",
            format_bytes(memory),
            voxels,
            descriptors,
            solver,
        )
    return Budget(
        voxels=voxels,
        descriptors=descriptors,
        solver=solver,
        coarse_fields=_fields_are_large(voxels, memory),
        needed_bytes=needed,
    )


def _fields_are_large(voxels: int, memory: int) -> bool:
    """Whether displacements on the working grid take too large a share of the memory."""
    return _FIELD_VOLUMES * _FLOAT_BYTES * voxels > _MAX_FIELD_SHARE * memory


def describe_cost(grid: sitk.Image, budget: Budget) -> str:
    """Describe a working grid and the order of what it costs with MIND-SSC, for the log.

    Args:
        grid: Working grid.
        budget: Settings in effect.
    """
    voxels, step, solver = grid.GetNumberOfPixels(), budget.solver.adam_spacing, budget.solver
    updates = sum(
        iterations * voxels / spacing**3
        for iterations, spacing in zip(solver.iterations, solver.level_spacings, strict=True)
    )
    seconds = voxels * _SECONDS_PER_VOXEL + updates * MIND_CHANNELS * _SECONDS_PER_CHANNEL[solver.dissimilarity]
    size = " x ".join(str(side) for side in grid.GetSize())
    spacing = " x ".join(f"{side:.3g}" for side in grid.GetSpacing())
    return (
        f"working grid: {size} voxels of {spacing} mm ({voxels / 1e6:.2g} million), descent on every "
        f"{'voxel' if step == 1 else f'cube of {step} voxels'}; "
        f"about {format_bytes(budget.needed_bytes)}B above PyTorch, "
        f"and with MIND-SSC about {_rounded(seconds)} s of one core"
    )


def _rounded(seconds: float) -> str:
    """Format a duration with one digit, since it is an estimate."""
    return f"{float(f'{seconds:.1g}'):g}"


def _smallest_settings(descriptors: DescriptorConfig, net: FeatureNetwork | None) -> DescriptorConfig:
    return (
        descriptors if net is None else replace(descriptors, side=max(32, net.config.min_side), channels=_MIN_CHANNELS)
    )


def _network_bytes(shape: tuple[int, int, int], voxels: int, descriptors: DescriptorConfig, net: FeatureNetwork) -> int:
    scale = min(1.0, (voxels / prod(shape)) ** (1 / 3))
    return window_bytes(net, [max(2, round(side * scale)) for side in shape], descriptors.side, descriptors.bf16)


def _descriptor_bytes(
    voxels: int, descriptors: DescriptorConfig, solver: ConvexAdamConfig, net: FeatureNetwork | None
) -> int:
    """Estimate the descriptors of both scans, with the copies that the solver makes of them."""
    channels = descriptors.count(net)
    held = descriptors.channels or channels
    return _FLOAT_BYTES * voxels // solver.pool**3 * (3 * held + max(0, channels - held))


def _peak_bytes(
    voxels: int,
    shape: tuple[int, int, int],
    descriptors: DescriptorConfig,
    solver: ConvexAdamConfig,
    net: FeatureNetwork | None,
) -> int:
    """Estimate the peak of the stage that needs most memory."""
    scans = _SCAN_VOLUMES * _FLOAT_BYTES * voxels
    channel = _FLOAT_BYTES * (voxels // solver.pool**3)
    described = 2 * descriptors.count(net) * channel
    describing = described + _MIND_SLAB_BYTES + _FLOAT_BYTES * voxels
    if descriptors.with_intensity:
        local = _INTENSITY_VOLUMES * _FLOAT_BYTES * voxels + _INTENSITY_CHANNELS * channel
        describing = max(describing, described + local)
    if net is not None and descriptors.feature_weight:
        # The second scan's features are computed while the first one's descriptors are held.
        held = (descriptors.count(net) + net.config.out_channels) * channel
        describing = max(describing, held + _network_bytes(shape, voxels, descriptors, net))
    searching = described + cost_bytes(voxels // solver.grid_spacing**3, solver.reach)
    fields = 12 * _FLOAT_BYTES * 3 * (voxels // solver.adam_spacing**3)
    descending = _descriptor_bytes(voxels, descriptors, solver, net) + fields
    if solver.dissimilarity == "correlation":
        descending += _CORRELATION_VOLUMES * _FLOAT_BYTES * (voxels // solver.adam_spacing**3)
    return scans + max(describing, searching, descending)
