"""Settings of a registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.programs.program import Program
from nnunet_anatomix.registration.solvers.ants import AntsConfig
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from nnunet_anatomix.registration.start.affine import Stage
from pretraining.imaging.grids import ISOTROPIC
from pretraining.imaging.limits import check_spacing


@dataclass(frozen=True, kw_only=True)
class RegistrationConfig:
    """Settings of one registration."""

    solver: Literal["convexadam", "ants", "none"] = "convexadam"
    """Solver: convexadam, ants (SyN on features; on mutual information if their weight is 0), or
    none: the linear alignment, with a last level at full resolution, is the result."""
    init: str = "auto"
    """Initial transform: auto compares several, none trusts the headers, else a transform file."""
    affine: Stage | None = None
    """Linear alignment of the start. Default: affine with init auto, else none."""
    spacing_mm: float | None = None
    """Spacing of the working grid, mm. Default: the fixed scan's, its finest if axes differ."""
    fast: bool = False
    """Save most of the time where slices are thick, and lose little: unless given, the spacing
    of the working grid is the geometric mean of the fixed scan's finest and coarsest."""
    descriptors: DescriptorConfig = field(default_factory=DescriptorConfig)
    """Descriptors that the solver compares."""
    convexadam: ConvexAdamConfig = field(default_factory=ConvexAdamConfig)
    """Settings of the solver convexadam."""
    ants: AntsConfig = field(default_factory=AntsConfig)
    """Settings of the solver ants."""
    program: Program | None = None
    """Other program that takes the place of the solver."""

    def __post_init__(self) -> None:
        check_spacing(self.spacing_mm, "spacing of the working grid")

    def working_spacing_mm(self, spacing_mm: Sequence[float]) -> float | None:
        """Return the spacing of the working grid, mm; None for the default.

        Args:
            spacing_mm: Spacing of the fixed scan along its axes.
        """
        if self.spacing_mm is not None or not self.fast or max(spacing_mm) <= ISOTROPIC * min(spacing_mm):
            return self.spacing_mm
        return sqrt(min(spacing_mm) * max(spacing_mm))

    @property
    def stage(self) -> Stage:
        """Linear alignment of the start, with the default resolved."""
        return self.affine or ("affine" if self.init == "auto" else "none")

    @property
    def is_linear(self) -> bool:
        """Whether a linear alignment is the result."""
        return self.solver == "none" and self.stage != "none"

    @property
    def method(self) -> str:
        """Name of the method in tables."""
        if self.program is not None:
            return self.program.name
        weight = self.descriptors.feature_weight
        if self.solver == "ants":
            return "ants-features" if weight else "ants-mi"
        if self.solver == "none":
            return f"linear-{self.stage}"
        parts = (("mind", self.descriptors.mind), ("features", weight), ("intensity", self.descriptors.with_intensity))
        return "convexadam-" + "+".join(name for name, included in parts if included)
