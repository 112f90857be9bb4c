"""Real images of one body in several modalities on one grid, with their matching voxels."""

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
from pretraining.imaging.limits import CT_WINDOW_HU

log = logging.getLogger(__name__)

BRAIN = "mni_multimodal"
BRAIN_LABELS = "labels_neuromorphometrics.nii.gz"
BRAIN_FROM = "t1"
BRAIN_TO = {"t2": True, "pd": True, "ct": False}
"""Other modalities, and whether settings may be chosen by them; the others are only reported."""
LIMBS = "Dataset903_LimbSarcoma"
COUNT = 4000
"""Number of voxels drawn."""
NEAR_MM = 10.0
"""Largest distance between matching voxels of a limb, mm: more than the misalignment of CT and MR
(rigid, days apart), and a few voxels of the coarsest features.
"""
LIMB_SPACING_MM = 1.5
"""Voxel spacing of resampled limb images, mm."""
_CT_TISSUE_HU = -300.0
_MR_TISSUE = 0.05
"""Lower bound of tissue as a share of the MR image's 99th percentile."""


@dataclass(frozen=True, kw_only=True)
class ModalityPair:
    """Pair of modalities to compare.

    Attributes:
        first: Modality of the first image.
        second: Modality of the second image.
        for_choosing: Whether settings may be chosen by this pair; otherwise it is only reported.
    """

    first: str
    second: str
    for_choosing: bool


@dataclass(frozen=True, kw_only=True)
class AlignedImages:
    """Images of one body on one grid.

    Attributes:
        collection: Name of the collection.
        subject: Name of the subject.
        images: (Z, Y, X) float32 by modality, with the axes of SimpleITK and nnU-Net.
        modality_pairs: Pairs of modalities to compare.
        voxels: (N,) flat indices of the voxels drawn.
        same: (N, N) bool, whether two of these voxels match.
        place: Description of what counts as a match.
    """

    collection: str
    subject: str
    images: dict[str, Tensor]
    modality_pairs: tuple[ModalityPair, ...]
    voxels: Tensor
    same: Tensor
    place: str


def read_aligned_images(data: Path, *, count: int = COUNT, seed: int = 0) -> Iterator[AlignedImages]:
    """Read the collections under a folder, first the brain, then the limbs, subject by subject.

    Args:
        data: Folder with ``registration/mni_multimodal`` and ``nnUNet_raw/Dataset903_LimbSarcoma``,
            or one of these, or the parent of one. A missing one is logged.
        count: Number of voxels drawn per subject.
        seed: Seed of the drawing.

    Yields:
        The images of each subject.

    Raises:
        InputError: If neither collection exists, or if files do not fit each other.
    """
    brain = _find_folder(data, ("registration", BRAIN), f"{BRAIN_FROM}.nii.gz")
    limbs = _find_folder(data, ("nnUNet_raw", LIMBS), DATASET_FILE)
    if brain is None and limbs is None:
        raise InputError(
            f"no {BRAIN} ({BRAIN_FROM}.nii.gz, ...) and no {LIMBS} under {data}; name the folder that holds one of them"
        )
    if brain is None:
        log.info("skipped: no %s under %s", BRAIN, data)
    else:
        yield read_brain(brain, _find_modalities(brain), count=count, seed=seed)
    if limbs is None:
        log.info("skipped: no %s under %s", LIMBS, data)
    else:
        yield from read_limbs(limbs, count=count, seed=seed)


def read_brain(
    folder: Path, modalities: Sequence[str] = tuple(BRAIN_TO), *, count: int = COUNT, seed: int = 0
) -> AlignedImages:
    """Read T1 and other modalities of the MNI templates; voxels of one of 134 regions match.

    Args:
        folder: Folder with ``t1.nii.gz``, a file for each of ``modalities`` and
            ``labels_neuromorphometrics.nii.gz``.
        modalities: Modalities besides T1, of t2, pd and ct.
        count: Number of voxels drawn, of those in a region.
        seed: Seed of the drawing.

    Raises:
        InputError: If a file is missing or the files do not share a grid.

    Notes:
        The CT is not in HU, and therefore not clipped.
    """
    files = {name: folder / f"{name}.nii.gz" for name in (BRAIN_FROM, *modalities)}
    images, _ = _read_on_one_grid({**files, "labels": folder / BRAIN_LABELS})
    labels = images.pop("labels").long().flatten()
    voxels = _draw_voxels(labels > 0, count, seed, index=0)
    regions = labels[voxels]
    return AlignedImages(
        collection=BRAIN,
        subject="template",
        images=images,
        modality_pairs=tuple(
            ModalityPair(first=BRAIN_FROM, second=name, for_choosing=BRAIN_TO[name]) for name in modalities
        ),
        voxels=voxels,
        same=regions[:, None] == regions,
        place="in the same region",
    )


def read_limbs(folder: Path, *, count: int = COUNT, seed: int = 0) -> Iterator[AlignedImages]:
    """Read all cases of an nnU-Net dataset with CT and one other channel, such as T1 of limbs.

    The only label is a tumour, and most of a thigh is one muscle; so voxels match here if they are
    at most 10 mm apart. Voxels are drawn where both images show tissue (above -300 HU, and above
    5 % of the MR's 99th percentile). This excludes air, the table, slices that one image lacks, and
    compact bone, which has no MR signal.

    Args:
        folder: Folder with ``dataset.json``, ``imagesTr`` and optionally ``imagesTs``; labels are
            not read.
        count: Number of voxels drawn per case.
        seed: Seed of the drawing; each case draws its own voxels.

    Yields:
        The images of each case.

    Raises:
        InputError: If the channels are not CT and one other, or files do not fit each other.

    Notes:
        CT is clipped to [-450, 450] HU. Images are resampled to 1.5 mm, the spacing of the
        templates that the network learned from. With slices of 3.3 mm, shapes would be compressed
        to a third, and all features would be coarser along one axis.
    """
    dataset = read_dataset_json(folder / DATASET_FILE)
    channels = {name.lower(): number for number, name in enumerate(dataset.channel_names)}
    if len(channels) != 2 or "ct" not in channels:
        raise InputError(f"{folder} has channels {sorted(channels)}; expected CT and one other")
    other = next(name for name in channels if name != "ct")
    ending = dataset.file_ending
    files = sorted(
        path for part in ("imagesTr", "imagesTs") for path in (folder / part).glob(f"*_{channels['ct']:04d}{ending}")
    )
    if not files:
        raise InputError(f"no images under {folder / 'imagesTr'}; expected files CASE_{channels['ct']:04d}{ending}")
    for index, path in enumerate(files):
        case = path.name.removesuffix(f"_{channels['ct']:04d}{ending}")
        yield _read_limb(
            folder.name,
            case,
            {"ct": path, other: path.with_name(f"{case}_{channels[other]:04d}{ending}")},
            count,
            seed,
            index,
        )


def _read_limb(collection: str, case: str, files: dict[str, Path], count: int, seed: int, index: int) -> AlignedImages:
    images, spacing = _read_on_one_grid(files)
    other = next(name for name in files if name != "ct")
    images["ct"] = images["ct"].clamp(*CT_WINDOW_HU)
    shape = images["ct"].shape
    extent = [side * step for side, step in zip(shape, spacing, strict=True)]
    sides = [max(1, round(length / LIMB_SPACING_MM)) for length in extent]
    images = {
        name: functional.interpolate(image[None, None], sides, mode="trilinear")[0, 0] for name, image in images.items()
    }
    tissue = (images["ct"] > _CT_TISSUE_HU) & (images[other] > _MR_TISSUE * np.percentile(images[other].numpy(), 99))
    if not tissue.any():
        raise InputError(
            f"{files['ct']} and {files[other]} show no tissue at a common location; "
            "expected a CT in HU and an MR image of one body"
        )
    voxels = _draw_voxels(tissue.flatten(), count, seed, index)
    steps = [length / side for length, side in zip(extent, sides, strict=True)]
    locations_mm = torch.stack(torch.unravel_index(voxels, sides), dim=1) * torch.tensor(steps)
    return AlignedImages(
        collection=collection,
        subject=case,
        images=images,
        modality_pairs=(ModalityPair(first=other, second="ct", for_choosing=False),),
        voxels=voxels,
        same=torch.cdist(locations_mm, locations_mm, compute_mode="donot_use_mm_for_euclid_dist") <= NEAR_MM,
        place=f"within {NEAR_MM:.0f} mm",
    )


def _find_folder(data: Path, inner: tuple[str, str], file: str) -> Path | None:
    """Return the first of data/A/B, data/B and data that has ``file``, None if none does.

    Args:
        data: Folder to search.
        inner: Names A and B.
        file: Name of the file.
    """
    candidates = (data.joinpath(*inner), data / inner[1], data)
    return next((folder for folder in candidates if (folder / file).is_file()), None)


def _find_modalities(brain: Path) -> list[str]:
    """List the modalities besides T1 that the folder has; InputError if there is none."""
    present = [name for name in BRAIN_TO if (brain / f"{name}.nii.gz").is_file()]
    if not present:
        raise InputError(
            f"{brain} has none of {[f'{name}.nii.gz' for name in BRAIN_TO]} besides {BRAIN_FROM}.nii.gz; add one"
        )
    for name in BRAIN_TO.keys() - present:
        log.info("skipped: no %s.nii.gz in %s", name, brain)
    return present


def _draw_voxels(inside: Tensor, count: int, seed: int, index: int) -> Tensor:
    """Draw (N,) flat indices of at most ``count`` voxels of a flat mask, in random order."""
    if count < 2:
        raise InputError(f"expected at least 2 voxels to draw, found {count}")
    candidates = inside.nonzero()[:, 0]
    return candidates[torch.randperm(len(candidates), generator=sample_generator(seed, index, "judge"))[:count]]


def _read_on_one_grid(files: dict[str, Path]) -> tuple[dict[str, Tensor], tuple[float, ...]]:
    """Read images of one grid; return them and their spacing, mm."""
    read = {name: _read(path) for name, path in files.items()}
    (first, (expected, spacing)), *others = read.items()
    for name, (image, _) in others:
        if image.shape != expected.shape:
            raise InputError(
                f"{files[name]} has {tuple(image.shape)} voxels, {files[first]} {tuple(expected.shape)}; "
                "expected one grid"
            )
    return {name: image for name, (image, _) in read.items()}, spacing


def _read(path: Path) -> tuple[Tensor, tuple[float, ...]]:
    """Read (Z, Y, X) float32 voxels and their spacing, mm, in the same order."""
    import SimpleITK as sitk  # not installed everywhere where training runs

    from pretraining.imaging.scans import read_image

    image = read_image(path, path.name)
    if image.GetDimension() != 3:
        raise InputError(f"{path} has {image.GetDimension()} dimensions; expected three")
    values = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32))
    if not values.isfinite().all():
        raise InputError(f"{path} has NaN or infinite voxels; replace them by the background's value")
    return values, image.GetSpacing()[::-1]
