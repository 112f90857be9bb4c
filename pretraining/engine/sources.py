"""Finding and reading label files: TotalSegmentator folders, multi-label maps, folders of binary masks."""

from __future__ import annotations

import gzip
import json
import logging
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretraining.errors import InputError

logger = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
LABEL_LIMIT = 2000
"""A file with more distinct values is taken for an intensity image."""
MERGED = ((re.compile(r"^(ribs?|costae?)([ _-]|$)", re.IGNORECASE), "ribs"), (re.compile("vertebra", re.IGNORECASE), "vertebrae"))
"""Organs that the paper pools into one template per subject (App. B.1.1)."""


class Rejected(Exception):
    """Why a file or a label is not used; the reason is the message."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files of one subject that are read together, since some of their organs may have to be merged."""

    source: str
    subject: str
    files: tuple[Path, ...]
    licence: str = ""


@dataclass(kw_only=True)
class GroupContent:
    """What a group held."""

    masks: dict[str, np.ndarray] = field(default_factory=dict)
    """Organ -> (X, Y, Z) bool at the wanted spacing, not cropped; never empty."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(file, or file and organ; reason)."""


def find_groups(source: Path) -> list[Group]:
    """List what there is to read under ``source``: a file, or a folder searched with all its subfolders.

    A folder called ``segmentations`` is one TotalSegmentator subject, named after the folder above (v1 and v2 layout). In any other
    folder, files are binary masks of one subject if the first readable one is binary and has no ``labels.json`` beside it, else
    each is a multi-label map.

    Raises
    ------
    InputError
        If ``source`` does not exist or holds no label file.
    """
    if source.is_file():
        return [Group(source=source.name, subject=_stem(source), files=(source,), licence=_licence(source.parent, source.parent))]
    if not source.is_dir():
        raise InputError(f"no such template source: {source}")
    groups = []
    for folder in sorted({path.parent for path in source.rglob("*") if _is_label_file(path)}):
        files = tuple(sorted(path for path in folder.iterdir() if _is_label_file(path)))
        name = "/".join([source.resolve().name, *folder.relative_to(source).parts])
        licence = _licence(folder, source)
        if folder.name == "segmentations":
            subject = folder.resolve().parent.name
            groups.append(Group(source=name.rsplit("/", 2)[0], subject=subject, files=files, licence=licence))
        elif not (folder / "labels.json").is_file() and _first_is_binary(files):
            groups.append(Group(source=name, subject=folder.resolve().name, files=files, licence=licence))
        else:
            groups += [Group(source=name, subject=_stem(path), files=(path,), licence=licence) for path in files]
    if not groups:
        raise InputError(f"no label files under {source}; expected {', '.join(SUFFIXES)} (for example SUBJECT/segmentations/liver.nii.gz)")
    return groups


def read_group(group: Group, spacing_mm: float, min_voxels: int) -> GroupContent:
    """Read all files of a group, merge what belongs together, and say what is not used.

    Parameters
    ----------
    group : from :func:`find_groups`.
    spacing_mm : voxel size that masks are resampled to, nearest neighbour.
    min_voxels : masks with fewer voxels after resampling are rejected.
    """
    content = GroupContent()
    for path in group.files:
        try:
            for organ, mask in _read_masks(path, spacing_mm, content):
                _merge(content.masks, organ, mask)
        except Rejected as reason:
            content.rejected.append((str(path), str(reason)))
            logger.info("not used: %s: %s", path, reason)
    for organ, mask in list(content.masks.items()):
        count = int(np.count_nonzero(mask))
        if count < min_voxels:
            del content.masks[organ]
            content.rejected.append((f"{group.subject}: {organ}", f"{count} voxels at {spacing_mm:g} mm, fewer than {min_voxels}"))
    return content


def resample_nearest(labels: np.ndarray, spacing_mm: tuple[float, ...], wanted_mm: float) -> np.ndarray:
    """Resample (X, Y, Z) to a cubic voxel size by nearest lookup; both grids cover the same box."""
    if np.allclose(spacing_mm, wanted_mm, rtol=1e-3):
        return labels
    picks = []
    for size, spacing in zip(labels.shape, spacing_mm, strict=True):
        count = max(1, round(size * spacing / wanted_mm))
        centres = (np.arange(count) + 0.5) * (wanted_mm / spacing)
        picks.append(np.clip(centres.astype(np.int64), 0, size - 1))
    return labels[np.ix_(*picks)]


def _read_masks(path: Path, spacing_mm: float, content: GroupContent) -> Iterator[tuple[str, np.ndarray]]:
    """Organ and (X, Y, Z) bool for each label of one file."""
    labels, file_spacing_mm = read_labels(path)
    if not labels.any():
        raise Rejected("the mask is empty")
    values_before = None if labels.max() == 1 else np.unique(labels)
    labels = resample_nearest(labels, file_spacing_mm, spacing_mm)
    names = _label_names(path.parent / "labels.json", content)
    if values_before is None:
        yield _merged_name(names.get(1, _stem(path))), labels != 0
        return
    values = [int(value) for value in values_before if value]
    for value in values:
        default = _stem(path) if len(values) == 1 else f"label_{value}"
        yield _merged_name(names.get(value, default)), labels == value


def read_labels(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Read one label file: (X, Y, Z) of whole numbers >= 0, and the spacing along these axes, mm.

    Raises
    ------
    Rejected
        If it can't be read or is no label map: not three-dimensional, not finite, fractions, negative values, too many values.
    """
    # Imported here, since a machine that only opens banks needs no SimpleITK.
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise Rejected(f"unreadable ({str(error).strip().splitlines()[-1].strip()})") from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        shape = (*image.GetSize(), image.GetNumberOfComponentsPerPixel())
        raise Rejected(f"expected a volume with three dimensions and one value per voxel, found shape and values per voxel {shape}")
    array = SimpleITK.GetArrayFromImage(image).T
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or _nifti_hides_nan(path):
            raise Rejected("expected labels, found NaN or infinity")
        if (array != np.rint(array)).any():
            raise Rejected("expected labels, found numbers that are not whole: an intensity image")
        array = array.astype(np.int64)
    if array.dtype.kind == "i" and array.min() < 0:
        raise Rejected(f"expected labels, found the negative number {array.min()}: an intensity image")
    if array.max() > LABEL_LIMIT and len(np.unique(array)) > LABEL_LIMIT:
        raise Rejected(f"expected labels, found more than {LABEL_LIMIT} distinct values: an intensity image")
    return array, image.GetSpacing()


def _nifti_hides_nan(path: Path) -> bool:
    """Whether a NIfTI file of floating-point numbers holds NaN or infinity, which ITK's reader silently turns into 0."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return False
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        content = file.read()
    order = "<" if content[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    if struct.unpack_from(order + "i", content)[0] == 540:
        (kind,), (start,) = struct.unpack_from(order + "h", content, 12), struct.unpack_from(order + "q", content, 168)
    else:
        (kind,), (start,) = struct.unpack_from(order + "h", content, 70), struct.unpack_from(order + "f", content, 108)
    float_type = {16: "f4", 64: "f8"}.get(kind)
    if float_type is None:
        return False
    values = content[int(start) :]
    whole = len(values) // int(float_type[1]) * int(float_type[1])
    return not bool(np.isfinite(np.frombuffer(values[:whole], dtype=order + float_type)).all())


def _merge(masks: dict[str, np.ndarray], organ: str, mask: np.ndarray) -> None:
    if organ not in masks:
        masks[organ] = mask
    elif masks[organ].shape != mask.shape:
        raise Rejected(f"its shape {mask.shape} differs from {masks[organ].shape}, the other parts of '{organ}'")
    else:
        masks[organ] = masks[organ] | mask


def _merged_name(organ: str) -> str:
    return next((merged for pattern, merged in MERGED if pattern.search(organ)), organ)


def _label_names(path: Path, content: GroupContent) -> dict[int, str]:
    """Value -> name as ``labels.json`` has it, {name: value}; nothing if there is no such file or it makes no sense."""
    if not path.is_file():
        return {}
    try:
        return {int(value): str(name) for name, value in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, TypeError) as error:
        content.rejected.append((str(path), f'expected {{"organ": number, ...}}, so labels go by number ({error})'))
        return {}


def _first_is_binary(files: tuple[Path, ...]) -> bool:
    for path in files:
        try:
            labels, _ = read_labels(path)
        except Rejected:
            continue
        used = labels[labels != 0]
        return bool((used == used[0]).all()) if len(used) else True
    return True


def _licence(folder: Path, root: Path) -> str:
    """First line of the nearest LICENCE or LICENSE file from ``folder`` up to ``root``."""
    for place in (folder, *folder.parents):
        for path in sorted(place.glob("LICEN[CS]E*")):
            return path.read_text(errors="replace").strip().partition("\n")[0]
        if place == root:
            break
    return ""


def _is_label_file(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _stem(path: Path) -> str:
    return (
        next(path.name.removesuffix(suffix) for suffix in SUFFIXES if path.name.endswith(suffix))
        if path.name.endswith(SUFFIXES)
        else path.stem
    )
