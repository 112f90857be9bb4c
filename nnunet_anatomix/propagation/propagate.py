"""Propagation of labels from atlases to one scan: register each atlas, then fuse their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_anatomix.propagation.difference import DIFFERENCE_POOL, difference_at_borders, difference_map
from nnunet_anatomix.propagation.fusion import Fusion, RegisteredAtlas, fuse, fusion_weights, moved_labels
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.prepare import ChannelPair, prepare
from nnunet_anatomix.registration.solve import solve
from nnunet_anatomix.registration.start.initial import best_start
from nnunet_anatomix.registration.warp import itk_transform
from nnunet_anatomix.scores.overlap import dice_by_label
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.inference import Clip
from pretraining.backbone.inference_memory import available_bytes
from pretraining.common.checks import check_count, check_not_negative
from pretraining.common.command_output import without_details
from pretraining.common.errors import InputError
from pretraining.imaging.grids import grid_of_cubes


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """A labelled scan.

    Attributes:
        name: Name of the case.
        channels: Scans of one subject on one grid, one per channel.
        labels: (X, Y, Z) integers on that grid.
    """

    name: str
    channels: tuple[sitk.Image, ...]
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """Settings of label propagation."""

    registration: RegistrationConfig = field(
        default_factory=lambda: RegistrationConfig(descriptors=DescriptorConfig(feature_weight=0, intensity=True))
    )
    """Registration of each atlas to the scan. Default: by MIND-SSC and intensities."""
    fusion: Fusion = "local"
    """Weights of the votes: vote for equal ones, local, or joint (label fusion)."""
    window_vox: int = 5
    """Odd side of the cubes over which differences are averaged, in units of 2 working voxels."""
    sharpness: float = 1.0
    """Power of the inverse difference between scan and atlas."""

    def __post_init__(self) -> None:
        check_count(window_vox=self.window_vox)
        check_not_negative(sharpness=self.sharpness)
        if self.window_vox % 2 == 0:
            raise InputError(f"window_vox: expected an odd number, found {self.window_vox}; add 1")
        if self.registration.solver != "convexadam":
            raise InputError(
                f"label propagation: expected the solver convexadam, found {self.registration.solver}; omit the solver"
            )


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """Labels of a scan, elected by atlases.

    Attributes:
        labels: (X, Y, Z) on the scan's grid.
        agreement_map: (X, Y, Z) float32, share of the votes that each voxel's label has, in [0, 1].
        agreement_by_label: Label → mean Dice between the result and each single atlas's labels.
        atlases: Names of the atlases.
        difference: Mean squared difference of the descriptors of the scan and the registered
            atlases, at the borders of the labels. The larger it is, the lower is the Dice to
            expect. NaN if no atlas covers them.
    """

    labels: np.ndarray
    agreement_map: np.ndarray
    agreement_by_label: dict[int, float]
    atlases: tuple[str, ...]
    difference: float

    @property
    def agreement(self) -> float:
        """Mean agreement over the labels, in [0, 1]; 0 where no label was found."""
        return float(np.mean(list(self.agreement_by_label.values()))) if self.agreement_by_label else 0.0


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What registrations need besides their settings.

    Attributes:
        net: Feature network in evaluation mode on ``device``; None if features have no weight.
        clips: Intensity range of each channel, None where it is not clipped.
        memory: Memory above PyTorch's own, bytes. Default: most of what is free.
        device: Device of descriptors and displacements.
    """

    net: FeatureNetwork | None = None
    clips: tuple[Clip | None, ...] = ()
    memory: int | None = None
    device: torch.device | str = "cpu"

    def clip(self, channel: int) -> Clip | None:
        """Return the intensity range of a channel."""
        return self.clips[channel] if channel < len(self.clips) else None


def propagate(
    channels: Sequence[sitk.Image],
    atlases: Sequence[Atlas],
    config: PropagationConfig | None = None,
    *,
    resources: Resources | None = None,
    ignore: int | None = None,
) -> Propagation:
    """Label a scan with the labels of atlases.

    Args:
        channels: Channels of the scan on one grid, validated
            (:func:`pretraining.imaging.scans.validate_scan`).
        atlases: Labelled scans with the same channels.
        config: Settings. Default: :class:`PropagationConfig`.
        resources: Network, memory and device. Default: :class:`Resources`.
        ignore: Label of the atlases that has no vote. Default: none.

    Returns:
        The labels and how far the atlases agree on them.

    Raises:
        InputError: If there is no atlas, channels do not correspond, or an atlas cannot be
            registered.
    """
    config, resources = config or PropagationConfig(), resources or Resources()
    registered = [register_atlas(channels, atlas, config.registration, resources) for atlas in atlases]
    return fuse_atlases(channels[0], registered, config, ignore=ignore)


@without_details("nnunet_anatomix.registration")
def register_atlas(
    channels: Sequence[sitk.Image], atlas: Atlas, config: RegistrationConfig, resources: Resources
) -> RegisteredAtlas:
    """Register one atlas to a scan, and compare both.

    Args:
        channels: Channels of the scan on one grid.
        atlas: Labelled scan with the same channels.
        config: Settings of the registration.
        resources: Network, memory and device.

    Returns:
        The atlas with its displacement.

    Raises:
        InputError: If the numbers of channels differ, or the scans cannot be registered.
    """
    if len(channels) != len(atlas.channels):
        raise InputError(
            f"expected {len(atlas.channels)} channels, as in the atlas {atlas.name}, found {len(channels)}; "
            "give the same channels in the same order"
        )
    device = torch.device(resources.device)
    pairs = [
        ChannelPair((fixed, moving), (resources.clip(number),) * 2)
        for number, (fixed, moving) in enumerate(zip(channels, atlas.channels, strict=True))
    ]
    seconds: dict[str, float] = {}
    problem, scans = prepare(
        *pairs[0].images,
        config,
        net=resources.net,
        masks=(None, None),
        clips=pairs[0].clips,
        memory=available_bytes(torch.device("cpu")) if resources.memory is None else resources.memory,
        device=device,
        seconds=seconds,
        more=pairs[1:],
    )
    solution = solve(problem, scans, seconds, progress=False)
    del scans
    forward = sitk.CompositeTransform([problem.start.transform, itk_transform(solution.displacement, solution.grid)])
    difference, known = difference_map(problem, pairs, solution.grid, forward, device)
    registered = RegisteredAtlas(
        name=atlas.name,
        labels=atlas.labels,
        label_grid=atlas.channels[0],
        displacement=solution.displacement.float(),
        start=problem.start.transform,
        grid=solution.grid,
        difference=difference,
        known=known,
        difference_grid=grid_of_cubes(solution.grid, DIFFERENCE_POOL, whole_only=True),
    )
    return replace(registered, moved=moved_labels(channels[0], registered))


def rank_atlases(
    channels: Sequence[sitk.Image], atlases: Iterable[Atlas], config: RegistrationConfig, resources: Resources
) -> list[str]:
    """Sort atlases by how well they agree with a scan after linear alignment.

    Args:
        channels: Channels of the scan, of which the first is compared.
        atlases: Labelled scans; each is used once, so an iterator may read them one at a time.
        config: Settings of the registration.
        resources: Network, memory and device.

    Returns:
        Names of the atlases, the best first. Atlases that do not overlap with the scan are last.
    """
    agreement = {}
    for atlas in atlases:
        try:
            start = best_start(
                channels[0],
                atlas.channels[0],
                config.descriptors,
                net=resources.net,
                stage=config.stage,
                clips=(resources.clip(0),) * 2,
            )
        except InputError:
            agreement[atlas.name] = -inf
        else:
            agreement[atlas.name] = start.agreement
    return sorted(agreement, key=lambda name: -agreement[name])


def fuse_atlases(
    scan: sitk.Image, atlases: Sequence[RegisteredAtlas], config: PropagationConfig, *, ignore: int | None = None
) -> Propagation:
    """Fuse the labels of registered atlases.

    Args:
        scan: Any image on the scan's grid.
        atlases: Registered atlases.
        config: Settings of the fusion.
        ignore: Label that has no vote. Default: none.

    Returns:
        The labels and the agreement of the atlases.

    Raises:
        InputError: If there is no atlas.
    """
    if not atlases:
        raise InputError("expected at least one labelled scan to propagate from, found none; add labelled scans")
    weights = fusion_weights(atlases, config.fusion, window_vox=config.window_vox, sharpness=config.sharpness)
    labels, share = fuse(scan, atlases, weights, ignore=ignore)
    dice: dict[int, list[float]] = {}
    for atlas in atlases:
        own = moved_labels(scan, atlas) if atlas.moved is None else atlas.moved
        if ignore is not None:
            own = np.where(own == ignore, 0, own)
        for label, value in dice_by_label(labels, own).items():
            dice.setdefault(label, []).append(value)
    return Propagation(
        labels=labels,
        agreement_map=share,
        # An atlas without the label agrees with the others only where none of them has it.
        agreement_by_label={label: float(np.sum(dice[label]) / len(atlases)) for label in sorted(dice)},
        atlases=tuple(atlas.name for atlas in atlases),
        difference=difference_at_borders(scan, labels, atlases),
    )
