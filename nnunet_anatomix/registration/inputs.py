"""Scans and features that callers of ``register`` give, in the types of common libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from pretraining.backbone.external import ExternalNetwork
from pretraining.backbone.external_weights import load_feature_weights
from pretraining.backbone.feature_network import FeatureWeights
from pretraining.backbone.unet import UNet
from pretraining.common.errors import InputError
from pretraining.imaging.conversion import array_image, itk_image
from pretraining.imaging.limits import check_spacing
from pretraining.imaging.scans import read_image

Scan = Any
"""Image of SimpleITK or nibabel, file, or (X, Y, Z) array of numpy or torch."""
Features = str | Path | FeatureWeights | UNet | ExternalNetwork | None
"""Name or file of weights, weights, network, or None for MIND-SSC alone."""
_ACCEPTED = "an image of SimpleITK or nibabel, a file, or an array (X, Y, Z) of numpy or torch"


def to_itk(
    scan: Scan, role: str, *, spacing_mm: Sequence[float] | None = None, like: sitk.Image | None = None
) -> sitk.Image:
    """Convert a scan to an image of SimpleITK.

    Args:
        scan: Image of SimpleITK or nibabel; file; or (X, Y, Z) array of numpy or torch, which has
            no position.
        role: Name of the scan for messages.
        spacing_mm: Spacing of an array along X, Y and Z. Its origin is 0 and its axes are those of
            LPS.
        like: Image whose position an array of the same shape takes instead.

    Returns:
        The image; images of SimpleITK as they are.

    Raises:
        InputError: If it has another type or shape, or an array has neither spacing nor position.
    """
    if isinstance(scan, sitk.Image):
        return scan
    if isinstance(scan, str | Path):
        return read_image(scan, role)
    try:
        if hasattr(scan, "dataobj") and hasattr(scan, "affine"):
            return itk_image(scan)
        if not isinstance(scan, np.ndarray | torch.Tensor) or hasattr(scan, "affine"):
            kind = f"{type(scan).__module__}.{type(scan).__name__}"
            raise ValueError(f"expected {_ACCEPTED}, found {kind}; convert it, e.g. by nibabel.Nifti1Image")
        image = array_image(_array(scan))
    except ValueError as error:
        raise InputError(f"{role}: {error}") from None
    if like is not None and spacing_mm is None:
        if image.GetSize() != like.GetSize():
            raise InputError(
                f"{role}: an array of shape {tuple(image.GetSize())} has no position, expected the shape of its scan, "
                f"{tuple(like.GetSize())}; pass an image"
            )
        image.CopyInformation(like)
        return image
    if spacing_mm is None or len(spacing_mm) != 3:
        raise InputError(
            f"{role}: an array has no spacing, found {spacing_mm}, expected three numbers in mm; "
            f"pass {role}_spacing_mm=(x, y, z), or an image"
        )
    for one in spacing_mm:
        check_spacing(float(one), f"{role}_spacing_mm")
    image.SetSpacing([float(one) for one in spacing_mm])
    return image


def load_features(features: Features) -> FeatureWeights | UNet | ExternalNetwork | None:
    """Load features from their name.

    Args:
        features: Name as in :func:`~pretraining.backbone.find_weights.find_weights`,
            such as ``bundled``, or what is returned as it is.

    Raises:
        InputError: If there are no such weights, or they cannot be used.
    """
    if not isinstance(features, str | Path):
        return features
    return load_feature_weights(str(features))


def _array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
