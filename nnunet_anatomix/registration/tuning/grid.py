"""Grid of ConvexAdam settings for a search (App. A.2)."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from math import inf
from typing import NamedTuple

from pretraining.common.errors import InputError


class Combination(NamedTuple):
    """One point of the grid, with the names of ``ConvexAdamConfig``."""

    smoothness: float
    grid_spacing: int
    reach: int
    adam_spacing: int


@dataclass(frozen=True, kw_only=True)
class SearchGrid:
    """Values of each setting; the defaults are the paper's 500 combinations."""

    smoothness: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5)
    """Weights λ of the descent's regularization."""
    grid_spacing: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Spacings of the search's grid, voxels."""
    reach: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Greatest displacements of the search, voxels of its grid (disp_hw in ConvexAdam)."""
    adam_spacing: tuple[int, ...] = (1, 2)
    """Spacings of the descent's grid, voxels."""

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            least = 0 if name == "smoothness" else 1
            if not values or len(set(values)) < len(values) or not all(least <= value < inf for value in values):
                raise InputError(
                    f"{name.replace('_', ' ')}: expected different numbers of at least {least}, found {values}"
                )

    def combinations(self) -> list[Combination]:
        """Return all combinations, the last setting varying fastest."""
        return [
            Combination(*values)
            for values in itertools.product(self.smoothness, self.grid_spacing, self.reach, self.adam_spacing)
        ]
