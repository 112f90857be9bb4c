"""How to register within a memory target: smaller windows first, then fewer channels, a shallower search, and a coarser grid at last."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import prod

from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.solvers.convex import cost_bytes
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.inference_memory import window_bytes
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError

log = logging.getLogger(__name__)

_NUMBER = 4
_LIBRARIES = 350 * 2**20
"""NumPy, SciPy, SimpleITK, Numba and the code that they compile, beside PyTorch itself; measured.

"""
_SCANS = 6
"""Volumes of the working grid that live all the time: both scans as images and tensors, and where
they are known.
"""
_MIND_SLAB = 30 * 2**19 * _NUMBER
"""Of :func:`pretraining.imaging.mind.pooled_mind_ssc`."""
_FIELDS = 15
"""Volumes that writing a displacement takes: single and double precision, ITK's and ours."""
_LEAST_CHANNELS = 8
_CERTAIN = 0.93
"""Share of the target that estimates are held against."""
_SHARE_OF_FIELDS = 0.2
"""Of the memory; what would take more is kept on a coarser grid."""
LARGEST_GRID = 256**3
"""Voxels of a working grid; finer ones cost hours and gain little."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Settings that keep to a memory target.

    Attributes:
        voxels: Of the working grid, at most.
        descriptors, solver: The settings asked for, made smaller where they had to be.
        coarse_fields: Whether displacements are kept on the descent's grid, between whose knots
            they are linear anyway.
        needed_bytes: Estimated peak above PyTorch itself.
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
    """Make settings smaller until the estimated peak keeps to ``memory``.

    Args:
        shape: Of the working grid, voxels, before it is made coarser.
        scans_bytes: What the scans take on their own grids, all together.
        memory: Bytes, above PyTorch itself.

    Raises:
        InputError: If the scans themselves are too large, or the smallest window.
    """
    voxels, named, memory = min(prod(shape), LARGEST_GRID), memory, int(_CERTAIN * memory)
    least_side = max(32, net.config.min_side) if net is not None else 32
    if scans_bytes + _LIBRARIES + _peak(32**3, shape, descriptors, solver, net) > memory:
        least = scans_bytes + _LIBRARIES + _peak(32**3, shape, _smaller_windows(descriptors, net), solver, net)
        if least > memory:
            raise InputError(
                f"registering these scans takes at least {format_bytes(least)}B of memory, {format_bytes(scans_bytes)}B of it for the "
                f"scans themselves, and {format_bytes(named)}B were named; name more, resample the scans or crop them"
            )
    asked = (descriptors, solver)
    while (needed := scans_bytes + _LIBRARIES + _peak(voxels, shape, descriptors, solver, net)) > memory:
        features = net is not None and descriptors.feature_weight
        large = features and descriptors.side > max(64, least_side)
        if net is not None and large and _window(shape, voxels, descriptors, net) > 0.4 * memory:
            descriptors = replace(descriptors, side=max(64, least_side, descriptors.side - 32))
        elif (channels := descriptors.channels or descriptors.count(net)) > _LEAST_CHANNELS and _pyramid(
            voxels, descriptors, solver, net
        ) > 0.5 * memory:
            descriptors = replace(descriptors, channels=max(_LEAST_CHANNELS, channels * 3 // 4))
        elif solver.grid_spacing < 8 and cost_bytes(voxels // solver.grid_spacing**3, solver.reach) > 0.3 * memory:
            solver = replace(solver, grid_spacing=solver.grid_spacing + solver.adam_spacing)
        elif features and descriptors.side > least_side:
            descriptors = replace(descriptors, side=max(least_side, descriptors.side - 32))
        else:
            voxels = int(voxels * 0.9)
    if (descriptors, solver) != asked or voxels < prod(shape):
        log.info(
            "to keep to %sB of memory: %d voxels of the grid, %s, %s", format_bytes(memory), voxels, descriptors, solver
        )
    coarse = _FIELDS * _NUMBER * voxels > _SHARE_OF_FIELDS * memory
    return Budget(voxels=voxels, descriptors=descriptors, solver=solver, coarse_fields=coarse, needed_bytes=needed)


def _smaller_windows(descriptors: DescriptorConfig, net: FeatureNetwork | None) -> DescriptorConfig:
    return (
        descriptors
        if net is None
        else replace(descriptors, side=max(32, net.config.min_side), channels=_LEAST_CHANNELS)
    )


def _window(shape: tuple[int, int, int], voxels: int, descriptors: DescriptorConfig, net: FeatureNetwork) -> int:
    scale = min(1.0, (voxels / prod(shape)) ** (1 / 3))
    return window_bytes(net, [max(2, round(side * scale)) for side in shape], descriptors.side, descriptors.bf16)


def _pyramid(voxels: int, descriptors: DescriptorConfig, solver: ConvexAdamConfig, net: FeatureNetwork | None) -> int:
    """The descriptors of both scans, twice while the solver arranges them."""
    channels = descriptors.count(net)
    held = descriptors.channels or channels
    return _NUMBER * voxels // solver.pool**3 * (3 * held + max(0, channels - held))


def _peak(
    voxels: int,
    shape: tuple[int, int, int],
    descriptors: DescriptorConfig,
    solver: ConvexAdamConfig,
    net: FeatureNetwork | None,
) -> int:
    """Of the most hungry stage."""
    always = _SCANS * _NUMBER * voxels
    channel = _NUMBER * (voxels // solver.pool**3)
    both = 2 * descriptors.count(net) * channel
    describing = both + _MIND_SLAB + _NUMBER * voxels
    if net is not None and descriptors.feature_weight:
        # The second scan's features, while the first one's descriptors wait.
        waiting = (descriptors.count(net) + net.config.out_channels) * channel
        describing = max(describing, waiting + _window(shape, voxels, descriptors, net))
    searching = both + cost_bytes(voxels // solver.grid_spacing**3, solver.reach)
    descending = _pyramid(voxels, descriptors, solver, net) + 12 * _NUMBER * 3 * (voxels // solver.adam_spacing**3)
    return always + max(describing, searching, descending)
