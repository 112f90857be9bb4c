"""Organs of one subject from its label files, with ribs and vertebrae merged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretraining.bank.packing import PackedMask, crop, pack
from pretraining.imaging.label_files import read_labels, read_size, resample_nearest, stem
from pretraining.templates.label_names import Names, read_label_names
from pretraining.templates.report import Rejected, Rejection, too_small
from pretraining.templates.sources import Group

MERGED = (
    (re.compile(r"(^|[ _-])(ribs?|costae?)([ _-]|\d|$)(?!.*cartilage)", re.IGNORECASE), "ribs"),
    (re.compile(r"(^|[ _-])vertebrae?([ _-]|\d|$)", re.IGNORECASE), "vertebrae"),
)
"""Patterns of organs that the paper merges into one template per subject (App. B.1.1):
``rib_left_1`` and ``vertebrae_S1``, but not ``costal_cartilages``, ``intervertebral_discs`` or
``sacrum``.
"""


@dataclass(kw_only=True)
class GroupContent:
    """Organs of a group, and files and organs that are not used."""

    masks: dict[str, PackedMask] = field(default_factory=dict)
    """Mask of each organ at the bank's spacing; its offset is relative to the subject's volume."""
    rejected: list[Rejection] = field(default_factory=list)
    """Files and organs that are not used."""


class OrganBox(NamedTuple):
    """Mask of an organ within its bounding box."""

    mask: np.ndarray
    """(X, Y, Z) bool."""
    offset: tuple[int, int, int]
    """Index of the box's first voxel in the subject's volume."""


def read_group(group: Group, spacing_mm: float, min_voxels: int) -> GroupContent:
    """Read all files of a group, merge ribs and vertebrae, and list what is not used.

    At most one volume is in memory at a time, as organs are cropped one by one.

    Args:
        group: Files of a subject, from :func:`pretraining.templates.sources.find_sources`.
        spacing_mm: Voxel size that masks are resampled to by nearest neighbour, mm.
        min_voxels: Least number of voxels after resampling; smaller masks are rejected.
    """
    content = GroupContent()
    organs: dict[str, OrganBox] = {}
    names, problem = read_label_names(group.names_file)
    if problem:
        content.rejected.append(problem)
    size = common_size(group.files) if len(group.files) > 1 else None
    for path in group.files:
        try:
            if size is not None and (found := read_size(path)) != size:
                raise Rejected(f"its size {found} differs from {size}, that of the subject's other masks")
            for organ, box in _read_organs(path, spacing_mm, names):
                organs[organ] = _merge_boxes(organs[organ], box) if organ in organs else box
        except Rejected as reason:
            content.rejected.append(Rejection(str(path), str(reason), reason.kind))
        except MemoryError:
            content.rejected.append(Rejection(str(path), "unreadable (it needs more memory than is available)"))
    for organ, box in organs.items():
        count = int(np.count_nonzero(box.mask))
        if count < min_voxels:
            content.rejected.append(
                too_small(f"{group.source} {group.subject}: {organ}", count, spacing_mm, min_voxels)
            )
        else:
            content.masks[organ] = pack(box.mask)._replace(offset=box.offset)
    return content


def common_size(files: tuple[Path, ...]) -> tuple[int, int, int] | None:
    """Return the size of more than half of the readable files, voxels; None if there is none."""
    sizes: Counter[tuple[int, int, int]] = Counter()
    for path in files:
        try:
            sizes[read_size(path)] += 1
        except Rejected:
            continue
    size, count = next(iter(sizes.most_common(1)), (None, 0))
    return size if 2 * count > sizes.total() else None


def is_one_subject(files: tuple[Path, ...]) -> bool:
    """Return whether the files of one folder are binary masks of one subject.

    They are if more than half have the same size and the first that is not empty is binary.
    """
    if common_size(files) is None:
        return False
    for path in files:
        try:
            values = read_labels(path).values
        except Rejected:
            continue
        if values:
            return len(values) == 1
    return True


def _read_organs(path: Path, spacing_mm: float, names: Names) -> Iterator[tuple[str, OrganBox]]:
    """Read the name and the box of each organ in one file.

    The box is empty if the organ vanishes by resampling.
    """
    labels, file_spacing_mm, values = read_labels(path)
    if not_organs := [value for value in values if names.get(value, "") is None]:
        labels = np.where(np.isin(labels, not_organs), 0, labels)
        values = tuple(value for value in values if value not in not_organs)
    if not values:
        raise Rejected("the mask is empty", "empty")
    organs = {value: name for value, name in names.items() if name is not None}
    labels = resample_nearest(labels, file_spacing_mm, spacing_mm)
    if len(values) == 1:
        tight, offset = crop(labels != 0)
        yield (
            merged_name(organs.get(values[0], stem(path.name))),
            OrganBox(tight.copy(), offset),
        )  # a view would keep the whole volume
        return
    # Imported here: the import takes a second, and opening a bank does not need it.
    from skimage.measure import regionprops

    if values[-1] >= 2**16:  # renumber, since regionprops allocates a list as long as the greatest number
        labels = np.searchsorted((0, *values), labels).astype(np.uint16)
        numbers = dict(enumerate(values, start=1))
    else:
        numbers = {value: value for value in values}
    boxes = {numbers[region.label]: OrganBox(region.image, region.bbox[:3]) for region in regionprops(labels)}
    for value in values:
        organ = organs.get(value, f"label_{value}")
        yield merged_name(organ), boxes.get(value, OrganBox(np.zeros((0, 0, 0), dtype=bool), (0, 0, 0)))


def _merge_boxes(a: OrganBox, b: OrganBox) -> OrganBox:
    if not a.mask.size or not b.mask.size:
        return a if a.mask.size else b
    low = np.minimum(a.offset, b.offset)
    high = np.maximum(np.add(a.offset, a.mask.shape), np.add(b.offset, b.mask.shape))
    mask = np.zeros(high - low, dtype=bool)
    for box in (a, b):
        mask[
            tuple(slice(start, start + size) for start, size in zip(box.offset - low, box.mask.shape, strict=True))
        ] |= box.mask
    return OrganBox(mask, tuple(low.tolist()))


def merged_name(organ: str) -> str:
    """Return ``ribs`` or ``vertebrae`` for the name of one of them, any other name unchanged."""
    return next((merged for pattern, merged in MERGED if pattern.search(organ)), organ)
