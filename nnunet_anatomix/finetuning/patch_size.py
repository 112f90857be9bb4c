"""Patch size in a plan's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def set_patch(configuration: dict[str, Any], patch: Sequence[int]) -> None:
    """Set the patch size, also in the arguments of networks that are built for one size.

    Args:
        configuration: Configuration of a plan, changed in place.
        patch: Patch size, voxels.
    """
    configuration["patch_size"] = list(patch)
    kwargs = configuration["architecture"]["arch_kwargs"]
    if "patch_size" in kwargs:
        kwargs["patch_size"] = list(patch)
