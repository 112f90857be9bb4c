"""Display of features as colours: three principal components as red, green and blue."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

RANGE = (0.01, 0.99)
"""Quantiles of a component shown as darkest and brightest."""


class FeatureColours:
    """Mapping from features to colours, shared by all slices and scans that are displayed.

    Args:
        sample: (C, N) features that define the components and their ranges.
    """

    def __init__(self, sample: Tensor) -> None:
        self._mean = sample.mean(1, keepdim=True)
        centred = (sample - self._mean).double()
        # Eigenvectors of the covariance are the principal axes, in ascending order of variance.
        axes = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -3:].flip(1)
        # The sign of an axis is arbitrary; fix it, so that colours do not flip between pictures.
        self._axes = (axes * axes.sum(0).sign()).float()
        self._range = (self._axes.T @ (sample - self._mean)).quantile(torch.tensor(RANGE), dim=1)[..., None]

    def __call__(self, features: Tensor) -> Tensor:
        """Convert a slice of features to colours.

        Args:
            features: (C, H, W).

        Returns:
            (3, H, W) in [0, 1]; with fewer than three channels some colours are 0.
        """
        low, high = self._range
        projected = self._axes.T @ (features.flatten(1) - self._mean)
        colours = ((projected - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).view(-1, *features.shape[1:])
        return functional.pad(colours, (0, 0, 0, 0, 0, 3 - len(colours)))
