"""Bias field: smooth multiplicative shading, the exponential of a polynomial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from torch import Generator, Tensor

from pretraining.common.checks import check_choice, check_count, check_probability, check_range
from pretraining.common.random import happens, uniforms
from pretraining.engine.execution import upload

BASES = {"legendre": np.polynomial.legendre.legvander, "powers": np.polynomial.polynomial.polyvander}
"""Vandermonde matrix of each basis: Legendre polynomials, or powers 1, x, x², ..."""


@dataclass(frozen=True, kw_only=True)
class BiasFieldConfig:
    """Probability and parameter ranges of the bias field."""

    probability: float = 0.98
    """Share of views with a bias field."""
    coefficients: tuple[float, float] = (0.0, 0.075)
    """Range of each coefficient."""
    basis: Literal["legendre", "powers"] = "legendre"
    """Basis of the polynomial: Legendre (MONAI) or powers 1, x, x², ... (TorchIO)."""
    degree: int = 3
    """Greatest total degree of the terms; the constant is included."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_count(degree=self.degree)
        check_range(coefficients=self.coefficients)
        check_choice(sorted(BASES), basis=self.basis)


@dataclass(frozen=True, kw_only=True)
class BiasField:
    """Random parameters of one bias field."""

    degree: int
    """Greatest total degree of the terms."""
    basis: Literal["legendre", "powers"] = "legendre"
    """Key of ``BASES``."""
    coefficients: tuple[float, ...]
    """Coefficient of each term (i, j, k) with i + j + k <= degree, k fastest."""


def term_degrees(degree: int) -> list[tuple[int, int, int]]:
    """Return the degrees (i, j, k) of each term, in the order of the coefficients."""
    return [(i, j, k) for i, j, k in product(range(degree + 1), repeat=3) if i + j + k <= degree]


def sample_bias_field(config: BiasFieldConfig, generator: Generator) -> BiasField | None:
    """Draw the coefficients; None if there is no bias field."""
    if not happens(config.probability, generator):
        return None
    coefficients = uniforms(len(term_degrees(config.degree)), *config.coefficients, generator)
    return BiasField(degree=config.degree, basis=config.basis, coefficients=tuple(coefficients))


def apply_bias_field(volume: Tensor, params: BiasField) -> Tensor:
    """Multiply (X, Y, Z) by exp(Σ c_ijk B_i(x) B_j(y) B_k(z)), with each axis from -1 to 1."""
    return apply_bias_fields(volume[None], [params])[0]


def apply_bias_fields(volumes: Tensor, params: Sequence[BiasField]) -> Tensor:
    """Apply :func:`apply_bias_field` to several volumes at once.

    Args:
        volumes: (V, X, Y, Z) float32.
        params: Parameters for each volume, all of the same basis and degree.
    """
    degree, basis = params[0].degree, BASES[params[0].basis]
    cubes = np.zeros((len(params), *(degree + 1,) * 3))
    for cube, each in zip(cubes, params, strict=True):
        for degrees, coefficient in zip(term_degrees(degree), each.coefficients, strict=True):
            cube[degrees] = coefficient
    along_x, along_y, along_z = (basis(np.linspace(-1, 1, size), degree) for size in volumes.shape[1:])
    # One plane per power of z; few enough to add them one by one.
    by_power = np.stack([np.einsum("ijk,xi,yj->kxy", cube, along_x, along_y) for cube in cubes], axis=1)
    planes = upload(by_power.astype(np.float32), volumes.device)
    rows = upload(along_z.T.astype(np.float32), volumes.device)
    field = planes[0, ..., None] * rows[0]
    for plane, powers in zip(planes[1:], rows[1:], strict=True):
        field.addcmul_(plane[..., None], powers)
    return field.exp_().mul_(volumes)
