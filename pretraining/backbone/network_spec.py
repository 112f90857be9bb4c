"""Description of any network, by the dotted path of its class, in a JSON file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pretraining.common.checks import check_count, check_positive
from pretraining.common.errors import InputError

_LEAST_STD = 1e-8
"""Divisor of a constant window, which has no standard deviation."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Description of a network in a JSON file."""

    network: str
    """Dotted path of a torch.nn.Module class with one input; a function needs --trust-code."""
    state: str
    """File with the state dict (.pth, .pt or .safetensors), relative to the JSON file; read without
    unpickling objects.
    """
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""
    layer: str | None = None
    """Name of the submodule whose output provides the features. Default: the network's output."""
    state_key: str | None = None
    """Key of the state dict in the file, such as state_dict. Default: the file itself."""
    strip_prefix: str = ""
    """Prefix to remove from the keys of the state dict, such as "module."."""
    rename: dict[str, str] = field(default_factory=dict)
    """Regular expressions → replacements, applied in order to the keys without the prefix."""
    ignore: tuple[str, ...] = ()
    """Prefixes of ignored keys: heads after the layer, or heads of other tasks in the file."""
    new: tuple[str, ...] = ()
    """Prefixes of parts that the file lacks and that fine-tuning trains from random values, such as
    the decoder of an encoder. Features of such a network cannot be computed.
    """
    multiple: int = 32
    """Divisor of every side of the input, voxels."""
    min_side: int | None = None
    """Smallest side of the input, voxels. Default: multiple."""
    max_side: int | None = None
    """Largest side of the input, voxels; equal to min_side for a fixed size. Default: unlimited."""
    size_argument: str | None = None
    """Keyword argument of the class for the size (X, Y, Z) of the input, for networks of one size.
    Fine-tuning sets it to its patch. Default: none.
    """
    input_range: tuple[float, float] = (0.0, 1.0)
    """Input values for the lower and the upper end of the clip window."""
    standardize: bool = False
    """Shift and scale each window to zero mean and unit variance instead of ``input_range``."""
    spacing_mm: tuple[float, float, float] | None = None
    """Spacing for fine-tuning, mm, slices first. Default: by the rule of planning."""
    voxelwise: bool = False
    """Divide the features of each voxel by their root mean square: only directions count."""

    def __post_init__(self) -> None:
        check_count(multiple=self.multiple, min_side=self.least_side)
        if self.least_side % self.multiple:
            raise InputError(f"min_side: expected a multiple of {self.multiple}, found {self.min_side}")
        if self.max_side is not None and (self.max_side < self.least_side or self.max_side % self.multiple):
            raise ValueError(
                f"need max_side a multiple of {self.multiple} and at least {self.least_side}, got {self.max_side}"
            )
        if not self.input_range[0] < self.input_range[1]:
            raise InputError(f"input_range: expected two numbers, the lower one first, found {self.input_range}")
        check_positive(spacing_mm=self.spacing_mm)
        for pattern, replacement in self.rename.items():
            try:
                re.sub(pattern, replacement, "")
            except (re.error, IndexError) as error:
                raise InputError(
                    f"rename: '{pattern}' is not a regular expression with its replacement ({error}); correct it"
                ) from None

    @property
    def least_side(self) -> int:
        """Smallest side of the input, voxels."""
        return self.multiple if self.min_side is None else self.min_side

    def scale_input(self, x: Tensor) -> Tensor:
        """Map intensities to the values that the network was trained on.

        Args:
            x: (B, C, X, Y, Z) in [0, 1].

        Returns:
            (B, C, X, Y, Z) in ``input_range``, or standardized.
        """
        if self.standardize:
            std, mean = torch.std_mean(x, (2, 3, 4), keepdim=True)
            return (x - mean) / std.clamp(min=_LEAST_STD)
        low, high = self.input_range
        return x * (high - low) + low
