"""The online set: what varies again at every draw of a stored sample (Fig. 12, red boxes)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor

from pretraining.engine.appearance import min_max
from pretraining.engine.artefacts.noise import NoiseConfig, apply_noise, sample_noise

ARTEFACTS = {
    "noise": (sample_noise, apply_noise),
}
"""The chain of each view, in the order of application; each is a field of :class:`OnlineConfig`."""


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """How views are varied, each on its own."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)


def sample_online(config: OnlineConfig, generator: Generator) -> tuple[tuple[str, Any], ...]:
    """Draw the artefacts of one view: name and parameters of each that happens, in order."""
    drawn = [(name, sample(getattr(config, name), generator)) for name, (sample, _) in ARTEFACTS.items()]
    return tuple((name, params) for name, params in drawn if params is not None)


def apply_online(view: Tensor, params: tuple[tuple[str, Any], ...]) -> Tensor:
    """Vary one view (X, Y, Z) in [0, 1]; the result is scaled to [0, 1] again."""
    for name, drawn in params:
        view = ARTEFACTS[name][1](view, drawn)
    return min_max(view) if params else view
