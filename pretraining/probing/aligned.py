"""Real images of one body in several modalities on one grid, and which of their voxels count as the same place."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.common.errors import InputError
from pretraining.common.random import sample_generator
from pretraining.imaging.dataset_json import DATASET_FILE, read_dataset_json

log = logging.getLogger(__name__)

BRAIN = "mni_multimodal"
BRAIN_LABELS = "labels_neuromorphometrics.nii.gz"
BRAIN_FROM = "t1"
BRAIN_TO = {"t2": True, "pd": True, "ct": False}
"""Other modality → whether settings may be chosen by it; what may not is a report on data that
nothing was tuned on.
"""
LIMBS = "Dataset903_LimbSarcoma"
COUNT = 4000
"""Voxels drawn."""
NEAR_MM = 10.0
"""Voxels of a limb at most this far apart count as the same place: wider than the misalignment of
CT and MR (rigid, days apart), and a few voxels of the coarsest features.
"""
LIMB_SPACING_MM = 1.5
CT_CLIP_HU = (-450.0, 450.0)
_CT_TISSUE_HU = -300.0
_MR_TISSUE = 0.05
"""Of the 99th percentile of the MR image."""


@dataclass(frozen=True, kw_only=True)
class ModalityPair:
    """From one modality to another.

    Attributes:
        first, second: Modalities.
        for_choosing: Whether settings may be chosen by it; otherwise it is only reported.
    """

    first: str
    second: str
    for_choosing: bool


@dataclass(frozen=True, kw_only=True)
class AlignedImages:
    """Images of one body on one grid.

    Attributes:
        collection, subject: Names.
        images: Modality → (Z, Y, X) float32, axes as SimpleITK and nnU-Net give them.
        crossings: The pairs of modalities to compare.
        voxels: (N,) flat indices of the voxels drawn.
        same: (N, N) bool, whether two of them count as the same place.
        place: What that means, in words.
    """

    collection: str
    subject: str
    images: dict[str, Tensor]
    crossings: tuple[ModalityPair, ...]
    voxels: Tensor
    same: Tensor
    place: str


def read_aligned_images(data: Path, *, count: int = COUNT, seed: int = 0) -> Iterator[AlignedImages]:
    """Go through what there is under a folder: first the brain, then the limbs, one subject at a time.

    Args:
        data: Folder with ``registration/mni_multimodal`` and ``nnUNet_raw/Dataset903_LimbSarcoma``,
            or one of these, or the folder around one. Which of them is missing is logged.
        count, seed: See :func:`read_brain`.

    Raises:
        InputError: If neither is there, or if files don't fit each other.
    """
    brain = _first(data, ("registration", BRAIN), f"{BRAIN_FROM}.nii.gz")
    limbs = _first(data, ("nnUNet_raw", LIMBS), DATASET_FILE)
    if brain is None and limbs is None:
        raise InputError(
            f"no {BRAIN} ({BRAIN_FROM}.nii.gz, ...) and no {LIMBS} under {data}; name the folder that holds one of them"
        )
    if brain is None:
        log.info("left out: no %s under %s", BRAIN, data)
    else:
        yield read_brain(brain, _present(brain), count=count, seed=seed)
    if limbs is None:
        log.info("left out: no %s under %s", LIMBS, data)
    else:
        yield from read_limbs(limbs, count=count, seed=seed)


def read_brain(
    folder: Path, modalities: Sequence[str] = tuple(BRAIN_TO), *, count: int = COUNT, seed: int = 0
) -> AlignedImages:
    """Read T1 and other ``modalities`` of the MNI templates; voxels count as the same place if they lie in the same of 134 regions.

    Args:
        folder: With ``t1.nii.gz``, a file for each of ``modalities`` (of t2, pd, ct) and
            ``labels_neuromorphometrics.nii.gz``.
        count: Voxels drawn, out of those in a region.
        seed: Of the drawing.

    Raises:
        InputError: If a file is missing or they don't share a grid.

    Notes:
        The CT is not in HU and so not clipped.
    """
    files = {name: folder / f"{name}.nii.gz" for name in (BRAIN_FROM, *modalities)}
    images, _ = _on_one_grid({**files, "labels": folder / BRAIN_LABELS})
    labels = images.pop("labels").long().flatten()
    voxels = _drawn(labels > 0, count, seed, index=0)
    regions = labels[voxels]
    return AlignedImages(
        collection=BRAIN,
        subject="template",
        images=images,
        crossings=tuple(
            ModalityPair(first=BRAIN_FROM, second=name, for_choosing=BRAIN_TO[name]) for name in modalities
        ),
        voxels=voxels,
        same=regions[:, None] == regions,
        place="in the same region",
    )


def read_limbs(folder: Path, *, count: int = COUNT, seed: int = 0) -> Iterator[AlignedImages]:
    """Read all cases of a dataset in nnU-Net's format with a CT and one other channel, e.g.

    CT and T1 of limbs.

    There is but one label, a tumour, and most of a thigh is one muscle, so a place is a location
    here: voxels count as the same place if at most 10 mm apart. Voxels are drawn where both images
    see tissue (above -300 HU, and above 5 % of the MR's 99th percentile), which leaves out air, the
    table, slices that one of them lacks, and compact bone, which MR does not see.

    Args:
        folder: With ``dataset.json``, ``imagesTr`` and, if any, ``imagesTs``; labels are not read.
        count, seed: See :func:`read_brain`; each case draws its own voxels.

    Raises:
        InputError: If the channels are others or files don't fit each other.

    Notes:
        CT is clipped to [-450, 450] HU. All is resampled to 1.5 mm, the grid of the templates that
        the network learned from: with slices of 3.3 mm, shapes would be squashed to a third, and
        all features would be coarser along one axis.
    """
    described = read_dataset_json(folder / DATASET_FILE)
    channels = {name.lower(): number for number, name in enumerate(described.channel_names)}
    if len(channels) != 2 or "ct" not in channels:
        raise InputError(f"{folder} has channels {sorted(channels)}; expected CT and one other")
    other = next(name for name in channels if name != "ct")
    ending = described.file_ending
    files = sorted(
        path for part in ("imagesTr", "imagesTs") for path in (folder / part).glob(f"*_{channels['ct']:04d}{ending}")
    )
    if not files:
        raise InputError(f"no images under {folder / 'imagesTr'}; expected files CASE_{channels['ct']:04d}{ending}")
    for index, path in enumerate(files):
        case = path.name.removesuffix(f"_{channels['ct']:04d}{ending}")
        yield _limb(
            folder.name,
            case,
            {"ct": path, other: path.with_name(f"{case}_{channels[other]:04d}{ending}")},
            count,
            seed,
            index,
        )


def _limb(collection: str, case: str, files: dict[str, Path], count: int, seed: int, index: int) -> AlignedImages:
    images, spacing = _on_one_grid(files)
    other = next(name for name in files if name != "ct")
    images["ct"] = images["ct"].clamp(*CT_CLIP_HU)
    shape = images["ct"].shape
    extent = [side * step for side, step in zip(shape, spacing, strict=True)]
    sides = [max(1, round(length / LIMB_SPACING_MM)) for length in extent]
    images = {
        name: functional.interpolate(image[None, None], sides, mode="trilinear")[0, 0] for name, image in images.items()
    }
    tissue = (images["ct"] > _CT_TISSUE_HU) & (images[other] > _MR_TISSUE * np.percentile(images[other].numpy(), 99))
    if not tissue.any():
        raise InputError(
            f"{files['ct']} and {files[other]} see no tissue at the same place; expected a CT in HU and an MR image of one body"
        )
    voxels = _drawn(tissue.flatten(), count, seed, index)
    steps = [length / side for length, side in zip(extent, sides, strict=True)]
    locations_mm = torch.stack(torch.unravel_index(voxels, sides), dim=1) * torch.tensor(steps)
    return AlignedImages(
        collection=collection,
        subject=case,
        images=images,
        crossings=(ModalityPair(first=other, second="ct", for_choosing=False),),
        voxels=voxels,
        same=torch.cdist(locations_mm, locations_mm, compute_mode="donot_use_mm_for_euclid_dist") <= NEAR_MM,
        place=f"within {NEAR_MM:.0f} mm",
    )


def _first(data: Path, inner: tuple[str, str], holds: str) -> Path | None:
    """The folder ``inner`` in ``data``, as a whole or from its second part on, or ``data`` itself; None if none has the file ``holds``."""
    candidates = (data.joinpath(*inner), data / inner[1], data)
    return next((folder for folder in candidates if (folder / holds).is_file()), None)


def _present(brain: Path) -> list[str]:
    present = [name for name in BRAIN_TO if (brain / f"{name}.nii.gz").is_file()]
    if not present:
        raise InputError(
            f"{brain} has none of {[f'{name}.nii.gz' for name in BRAIN_TO]} beside {BRAIN_FROM}.nii.gz; add one"
        )
    for name in BRAIN_TO.keys() - present:
        log.info("left out: no %s.nii.gz in %s", name, brain)
    return present


def _drawn(inside: Tensor, count: int, seed: int, index: int) -> Tensor:
    """(N,) flat indices of at most ``count`` voxels of a flat mask, in random order."""
    if count < 2:
        raise InputError(f"expected at least 2 voxels to draw, found {count}")
    candidates = inside.nonzero()[:, 0]
    return candidates[torch.randperm(len(candidates), generator=sample_generator(seed, index, "judge"))[:count]]


def _on_one_grid(files: dict[str, Path]) -> tuple[dict[str, Tensor], tuple[float, ...]]:
    """Images and their spacing, mm."""
    read = {name: _read(path) for name, path in files.items()}
    (first, (expected, spacing)), *others = read.items()
    for name, (image, _) in others:
        if image.shape != expected.shape:
            raise InputError(
                f"{files[name]} has {tuple(image.shape)} voxels, {files[first]} {tuple(expected.shape)}; expected one grid"
            )
    return {name: image for name, (image, _) in read.items()}, spacing


def _read(path: Path) -> tuple[Tensor, tuple[float, ...]]:
    """Voxels as (Z, Y, X) float32 and spacing, mm, in the same order."""
    import SimpleITK as sitk  # not everywhere where training runs

    from pretraining.imaging.scans import read_image

    image = read_image(path, path.name)
    if image.GetDimension() != 3:
        raise InputError(f"{path} has {image.GetDimension()} dimensions; expected three")
    values = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32))
    if not values.isfinite().all():
        raise InputError(f"{path} has NaN or infinite voxels; replace them by the background's value")
    return values, image.GetSpacing()[::-1]
