"""Pairs of scans with labels, for a search over registration settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.descriptors import Scan
from nnunet_anatomix.registration.lists import pair_name, read_list
from nnunet_anatomix.registration.warp import warp
from nnunet_anatomix.scores.overlap import dice_by_label, shared_labels
from pretraining.backbone.inference import Clip
from pretraining.common.errors import InputError
from pretraining.imaging.contrast import check_contrast
from pretraining.imaging.grids import coverage, image_tensor, resample_image
from pretraining.imaging.limits import check_window
from pretraining.imaging.scans import read_image, validate_labels, validate_scan

IMAGES = ("fixed", "moving", "fixed_labels", "moving_labels")
MASKS = ("fixed_mask", "moving_mask")


@dataclass(frozen=True, kw_only=True)
class SearchPair:
    """Two scans, roughly aligned by their headers, and the labels of both.

    Attributes:
        name: Name, unique among pairs.
        fixed, moving, fixed_labels, moving_labels: Files in any format of ITK.
        fixed_mask, moving_mask: Masks, above 0 where a scan counts; None for everywhere.
        fixed_clip, moving_clip: Intensities that the network sees as 0 and 1; None for minimum and
            maximum.
    """

    name: str
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_clip: Clip | None = None
    moving_clip: Clip | None = None

    def __post_init__(self) -> None:
        check_window(self.fixed_clip, f"{self.name}: clip of the fixed scan")
        check_window(self.moving_clip, f"{self.name}: clip of the moving scan")

    @property
    def files(self) -> dict[str, Path]:
        """Files of the pair, by role."""
        return {role: path for role in (*IMAGES, *MASKS) if (path := getattr(self, role)) is not None}


def read_search_pairs(
    path: Path, *, fixed_clip: Clip | None = None, moving_clip: Clip | None = None
) -> list[SearchPair]:
    """Read a list of pairs.

    Args:
        path: CSV file with the columns of :class:`SearchPair`, of which ``name`` and the masks are
            optional; paths are relative to its folder.
        fixed_clip: Intensity range of all fixed scans.
        moving_clip: Intensity range of all moving scans.

    Returns:
        One entry per row.

    Raises:
        InputError: As in :func:`~nnunet_anatomix.registration.lists.read_list`, or if a file does
            not exist.
    """
    pairs = []
    for name, cells, where in read_list(path, "pairs", required=IMAGES, optional=MASKS, unnamed=pair_name):
        images = {role: path.parent / cell for role, cell in cells.items()}
        for role, image in images.items():
            if not image.is_file():
                raise InputError(f"{where}: expected {role} at {image}, found no such file; correct the path")
        pairs.append(SearchPair(name=name, **images, fixed_clip=fixed_clip, moving_clip=moving_clip))
    return pairs


@dataclass(frozen=True, kw_only=True)
class LoadedPair:
    """A pair on the fixed grid.

    Attributes:
        fixed, moving: Scans.
        fixed_labels, moving_labels: (X, Y, Z) float32 label maps with integer values.
    """

    fixed: Scan
    moving: Scan
    fixed_labels: Tensor
    moving_labels: Tensor

    @cached_property
    def labels(self) -> list[int]:
        """Labels that both scans have."""
        return shared_labels(self.fixed_labels, self.moving_labels)

    def dice(self, displacement: Tensor | None = None) -> float:
        """Compute the mean Dice over labels, after warping by a (3, X, Y, Z) displacement."""
        moved = (
            self.moving_labels
            if displacement is None
            else warp(self.moving_labels[None], displacement, mode="nearest")[0]
        )
        dice = dice_by_label(self.fixed_labels, moved)
        return float(np.mean([dice[label] for label in self.labels]))


def load_pair(pair: SearchPair, device: torch.device) -> LoadedPair:
    """Read a pair, and resample the moving scan and its labels to the fixed grid by their headers.

    Args:
        pair: Files of the pair.
        device: Device of the tensors.

    Returns:
        The pair on the fixed grid.

    Raises:
        InputError: If a scan or label map is invalid, the masks do not overlap, or no label is in
            both scans on the fixed grid.
    """
    roles = {role: f"{pair.name}, {role.replace('_', ' ')}" for role in pair.files}
    images = {role: read_image(path, roles[role]) for role, path in pair.files.items()}
    fixed, moving = (validate_scan(images[role], roles[role]) for role in ("fixed", "moving"))
    check_contrast(fixed, pair.fixed_clip, f"{pair.name}: clip of the fixed scan")
    check_contrast(moving, pair.moving_clip, f"{pair.name}: clip of the moving scan")
    fixed_labels = validate_labels(images["fixed_labels"], fixed, roles["fixed_labels"])
    moving_labels = validate_labels(images["moving_labels"], moving, roles["moving_labels"])
    known = torch.ones(fixed.GetSize(), dtype=torch.float32)
    moving_known = coverage(moving, fixed)
    if pair.fixed_mask:
        known = image_tensor(
            sitk.Cast(validate_labels(images["fixed_mask"], fixed, roles["fixed_mask"]) != 0, sitk.sitkFloat32)
        )
    if pair.moving_mask:
        moving_mask = validate_labels(images["moving_mask"], moving, roles["moving_mask"]) != 0
        resampled = resample_image(sitk.Cast(moving_mask, sitk.sitkFloat32), fixed, nearest=True)
        moving_known = moving_known * image_tensor(resampled)
    if not known.any() or not moving_known.any():
        raise InputError(f"{pair.name}: a mask is empty where the scans overlap; check the masks, or omit them")
    loaded = LoadedPair(
        fixed=Scan(image=image_tensor(fixed).to(device), known=_mask_or_none(known, device), clip=pair.fixed_clip),
        moving=Scan(
            image=image_tensor(resample_image(moving, fixed)).to(device),
            known=_mask_or_none(moving_known, device),
            clip=pair.moving_clip,
        ),
        fixed_labels=image_tensor(fixed_labels).to(device),
        moving_labels=image_tensor(resample_image(moving_labels, fixed, nearest=True)).to(device),
    )
    if not loaded.labels:
        raise InputError(
            f"{pair.name}: expected labels of both scans on the fixed grid, found none in common; "
            "check that the scans overlap and use the same label values"
        )
    return loaded


def _mask_or_none(known: Tensor, device: torch.device) -> Tensor | None:
    """Move a mask to a device; return None if it is 1 everywhere."""
    return None if bool(known.all()) else known.to(device)
