"""Presets of label propagation, among which leave-one-out chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
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


PRESETS: dict[PresetName, int] = {"fast": 2**18, "standard": 2**20, "fine": 2**22}
"""Name → number of voxels of the working grid that is aimed at."""
SOLVER = ConvexAdamConfig(smoothness=0.5)
"""Solver of every preset; its smoothness was chosen by leave-one-out on labelled hippocampi.
Fingerprints contain it: labels of another solver are made again."""


def spacing_mm(preset: PresetName, scan: sitk.Image) -> float:
    """Return the spacing of a preset's working grid for a scan, mm."""
    volume_mm3 = prod(side * step for side, step in zip(scan.GetSize(), scan.GetSpacing(), strict=True))
    spacing = max(_FINEST * min(scan.GetSpacing()), (volume_mm3 / PRESETS[preset]) ** (1 / 3))
    return min(max(spacing, SANE_SPACING_MM[0]), SANE_SPACING_MM[1])


def distinct_presets(names: Iterable[PresetName], scans: Iterable[sitk.Image]) -> tuple[PresetName, ...]:
    """Return presets without those that mean the same grid as an earlier one for all scans.

    Args:
        names: Presets.
        scans: Scans to be labelled, or their headers.
    """
    scans = list(scans)
    seen: dict[tuple[float, ...], PresetName] = {}
    for name in names:
        key = tuple(spacing_mm(name, scan) for scan in scans)
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
    registration = RegistrationConfig(spacing_mm=spacing_mm(preset, scan), descriptors=descriptors, convexadam=SOLVER)
    return replace(PropagationConfig(), registration=registration, fusion=fusion)
