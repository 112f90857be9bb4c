"""Settings of a registration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.solvers.ants import AntsConfig
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from nnunet_anatomix.registration.start.affine import Stage
from pretraining.imaging.limits import check_spacing


@dataclass(frozen=True, kw_only=True)
class RegistrationConfig:
    """How to register."""

    solver: Literal["convexadam", "ants"] = "convexadam"
    """``convexadam``, or ``ants``: SyN on feature channels, or on mutual information where features
    have no weight.
    """
    init: str = "auto"
    """``auto`` judges several starts, ``none`` trusts the headers, anything else names a
    transform's file.
    """
    affine: Stage | None = None
    """What the start may do to agree better; left out, ``affine`` with ``auto`` and ``none``
    otherwise.
    """
    spacing_mm: float | None = None
    """Of the working grid; left out, the fixed scan's own if its axes are alike, else its finest.

    """
    descriptors: DescriptorConfig = field(default_factory=DescriptorConfig)
    """What is compared."""
    convexadam: ConvexAdamConfig = field(default_factory=ConvexAdamConfig)
    """Settings of that solver."""
    ants: AntsConfig = field(default_factory=AntsConfig)
    """Settings of that solver."""

    def __post_init__(self) -> None:
        check_spacing(self.spacing_mm, "spacing of the working grid")

    @property
    def stage(self) -> Stage:
        """What the start may do."""
        return self.affine or ("affine" if self.init == "auto" else "none")

    @property
    def method(self) -> str:
        """Its name in tables."""
        weight, mind = self.descriptors.feature_weight, self.descriptors.mind
        if self.solver == "ants":
            return "ants-features" if weight else "ants-mi"
        return "convexadam-" + "+".join(
            name for name, takes_part in (("mind", mind), ("features", weight)) if takes_part
        )
