"""Presets of label propagation, among which leave-one-out chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import SimpleITK as sitk

from nnunet_anatomix.propagation.fusion import Fusion
from nnunet_anatomix.propagation.propagate import PropagationConfig
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from pretraining.imaging.limits import SANE_SPACING_MM

PresetName = Literal["fast", "standard", "fine"]
_FINEST = 0.7
"""Finest spacing of the working grid, relative to the scan's finest spacing."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A working grid.

    Attributes:
        voxels: Size of the working grid that is aimed at.
    """

    voxels: int

    def spacing_mm(self, scan: sitk.Image) -> float:
        """Return the spacing of the working grid for a scan, mm."""
        volume_mm3 = prod(side * step for side, step in zip(scan.GetSize(), scan.GetSpacing(), strict=True))
        spacing = max(_FINEST * min(scan.GetSpacing()), (volume_mm3 / self.voxels) ** (1 / 3))
        return min(max(spacing, SANE_SPACING_MM[0]), SANE_SPACING_MM[1])


SOLVER = ConvexAdamConfig(smoothness=0.5)
"""Solver of every preset, less smooth than by default: intensities tell more, and a vote removes
errors of single atlases. Fingerprints contain it: labels of another solver are made again."""
PRESETS: dict[PresetName, Preset] = {
    "fast": Preset(voxels=2**18),
    "standard": Preset(voxels=2**20),
    "fine": Preset(voxels=2**22),
}


def distinct_presets(names: Iterable[PresetName], scans: Iterable[sitk.Image]) -> tuple[PresetName, ...]:
    """Return presets without those that mean the same grid as an earlier one for all scans.

    Args:
        names: Presets.
        scans: Scans to be labelled, or their headers.
    """
    scans = list(scans)
    seen: dict[tuple[float, ...], PresetName] = {}
    for name in names:
        key = tuple(PRESETS[name].spacing_mm(scan) for scan in scans)
        seen.setdefault(key, name)
    return tuple(seen.values())


def configure(preset: PresetName, fusion: Fusion, descriptors: DescriptorConfig, scan: sitk.Image) -> PropagationConfig:
    """Return the settings of a preset for one scan.

    Args:
        preset: Name of the preset.
        fusion: Rule of the vote.
        descriptors: Descriptors that are compared.
        scan: Scan to be labelled.
    """
    registration = RegistrationConfig(
        spacing_mm=PRESETS[preset].spacing_mm(scan), descriptors=descriptors, convexadam=SOLVER
    )
    return replace(PropagationConfig(), registration=registration, fusion=fusion)
