"""Splitting of a series into volumes: echoes, b-values, dynamics, image types, planes, scouts."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_anatomix.clinical.dicom.headers import VOLUME_TAGS, SliceHeader

SAME_POSITION_MM = 1e-2
"""Positions closer than this count as one; scanners round to a hundredth or finer."""
DIRECTION_TOLERANCE = 1e-3
SPACING_TOLERANCE = 1e-4
_CONTRAST_TAGS = ("echo_time", "b_value", "inversion_time", "part")
"""Tags in which the slices of one volume never differ."""
_MIN_COVERED, _MIN_COVERING = 0.5, 0.8
"""A tag tells volumes apart if this share of the slices belongs to groups that cover at least half
of all positions. Tags that vary from slice to slice, such as trigger times, do not.
"""
_STACKS_APART = 1.5
"""Smallest gap between stacks, relative to the largest one within them."""
_MAX_SCOUT_SLICES = 4
_OTHER_PLANE = 0.7
"""Cosine of the angle between normals below which planes count as different, such as axial and
coronal.
"""
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Volume:
    """Slices of one volume of a series."""

    slices: tuple[SliceHeader, ...]
    labels: tuple[str, ...] = ()
    """Labels that identify it, such as ``echo_time=80``; empty if it is the only volume."""
    is_scout: bool = False
    """True for a localizer within the series."""

    @property
    def name(self) -> str:
        """Labels as one text."""
        return " ".join(self.labels)


def split_volumes(slices: Sequence[SliceHeader]) -> list[Volume]:
    """Split the slices of a series into volumes.

    Slices are split by plane, then by the tags that distinguish volumes. Where no tag does but all
    positions occur equally often, the order of the files does. Nothing is left out: slices that
    cannot be told apart stay together, and ``stack_slices`` says what is wrong with them.

    Args:
        slices: Headers of one series, without duplicates.

    Returns:
        At least one volume, in the order of their labels' values.
    """
    if any(None in (header.position_mm, header.orientation, header.pixel_spacing_mm) for header in slices):
        return [Volume(tuple(slices))]
    planes = _split_by_plane(slices)
    main = _normal(max(planes, key=len)[0])
    names = [_plane_name(plane[0]) for plane in planes]
    found = []
    for number, plane in enumerate(planes):
        labels: tuple[str, ...] = ()
        if len(planes) > 1:
            labels = (f"plane={names[number]}",)
            if names.count(names[number]) > 1:
                labels += (f"stack={names[: number + 1].count(names[number])}",)
        aside = len(plane) <= _MAX_SCOUT_SLICES and abs(_normal(plane[0]) @ main) < _OTHER_PLANE
        for more, part in _split_by_tags(plane):
            scout = all("LOCALIZER" in header.image_type for header in part)
            found.append(Volume(tuple(part), labels + more, is_scout=aside or scout))
    return found


def _split_by_plane(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Group slices of the same size, spacing and orientation.

    Groups with one orientation whose positions do not overlap stay together: they may be parts of
    one damaged volume, or of two series with one UID.
    """
    groups: list[list[SliceHeader]] = []
    for header in slices:
        for group in groups:
            if _same_plane(group[0], header):
                group.append(header)
                break
        else:
            groups.append([header])
    merged: list[list[SliceHeader]] = []
    for group in groups:
        for other in merged:
            if _same_direction(group[0], other[0]) and not _overlap(group, other):
                other.extend(group)
                break
        else:
            merged.append(group)
    return [part for group in merged for part in _split_by_stack(group)]


def _split_by_stack(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Split parallel slices by StackID if the stacks are far apart, such as those of two knees."""
    stacks = list(_by_tag(slices, "stack").values())
    heights = sorted((np.unique(_heights(part, _normal(slices[0]))) for part in stacks), key=lambda part: part[0])
    widest = max((float(np.diff(part).max(initial=0)) for part in heights), default=0.0)
    apart = [after[0] - before[-1] for before, after in itertools.pairwise(heights)]
    return stacks if apart and min(apart) > _STACKS_APART * widest > 0 else [slices]


def _same_plane(first: SliceHeader, second: SliceHeader) -> bool:
    return (
        (first.rows, first.columns) == (second.rows, second.columns)
        and (first.samples, first.photometric) == (second.samples, second.photometric)
        and _equal(first.pixel_spacing_mm, second.pixel_spacing_mm, SPACING_TOLERANCE)
        and _same_direction(first, second)
    )


def _same_direction(first: SliceHeader, second: SliceHeader) -> bool:
    return _equal(first.orientation, second.orientation, DIRECTION_TOLERANCE)


def _equal(first: tuple[float, ...] | None, second: tuple[float, ...] | None, tolerance: float) -> bool:
    return first == second or bool(np.abs(_numbers(first) - _numbers(second)).max() <= tolerance)


def _overlap(first: Sequence[SliceHeader], second: Sequence[SliceHeader]) -> bool:
    normal = _normal(first[0])
    one, other = _heights(first, normal), _heights(second, normal)
    return max(one.min(), other.min()) <= min(one.max(), other.max()) + SAME_POSITION_MM


def _normal(header: SliceHeader) -> np.ndarray:
    along_x, along_y = _numbers(header.orientation).reshape(2, 3)
    return np.cross(along_x, along_y)


def _numbers(tag: tuple[float, ...] | None) -> np.ndarray:
    """Return the numbers of a tag that :func:`split_volumes` requires."""
    return np.array(tag if tag is not None else (), dtype=float)


def _heights(slices: Sequence[SliceHeader], normal: np.ndarray) -> np.ndarray:
    return np.array([header.position_mm for header in slices], dtype=float) @ normal


def _plane_name(header: SliceHeader) -> str:
    return _PLANES[int(np.abs(_normal(header)).argmax())]


def _split_by_tags(slices: list[SliceHeader]) -> list[tuple[tuple[str, ...], list[SliceHeader]]]:
    """Split slices of one plane; returns labels and slices of each volume."""
    places = _number_places(slices)
    counts = Counter(places)
    if max(counts.values()) == 1:
        tags = [tag for tag in _CONTRAST_TAGS if tag in VOLUME_TAGS and len(_by_tag(slices, tag)) > 1]
    else:
        tags = [tag for tag in VOLUME_TAGS if _tells_apart(slices, places, tag)]
    if tags:
        tag = tags[0]
        groups = _by_tag(slices, tag)
        labels = _labels(tag, list(groups))
        return [
            ((label, *more), part)
            for label, value in zip(labels, groups, strict=True)
            for more, part in _split_by_tags(groups[value])
        ]
    (times, *others) = set(counts.values())
    if others or times == 1:
        return [((), slices)]
    return [((f"volume={number}",), part) for number, part in enumerate(_split_by_order(slices, places), 1)]


def _number_places(slices: Sequence[SliceHeader]) -> list[int]:
    """Return the number of the position of each slice along the normal."""
    heights = _heights(slices, _normal(slices[0]))
    order = np.argsort(heights, kind="stable")
    numbers = np.zeros(len(slices), dtype=int)
    numbers[order[1:]] = np.cumsum(np.diff(heights[order]) > SAME_POSITION_MM)
    return numbers.tolist()


def _by_tag(slices: Sequence[SliceHeader], tag: str) -> dict[Hashable, list[SliceHeader]]:
    """Group slices by a tag, in the order of its values."""
    groups: dict[Hashable, list[SliceHeader]] = defaultdict(list)
    for header in slices:
        value = getattr(header, tag)
        # Scanners vary the echo time of one volume by less than a tenth of a millisecond.
        groups[round(value, 1) if tag == "echo_time" and value is not None else value].append(header)
    return dict(sorted(groups.items(), key=lambda item: (item[0] is not None, item[0] if item[0] is not None else 0)))


def _tells_apart(slices: Sequence[SliceHeader], places: Sequence[int], tag: str) -> bool:
    """Return whether the groups of a tag's values are whole volumes, or sets of them."""
    place_of = {id(header): place for header, place in zip(slices, places, strict=True)}
    most, all_places = max(Counter(places).values()), set(places)
    groups = list(_by_tag(slices, tag).values())
    if len(groups) < 2:
        return False
    covering, whole = 0, False
    for group in groups:
        counts = Counter(place_of[id(header)] for header in group)
        if len(set(counts.values())) > 1 or max(counts.values()) == most:
            return False
        whole |= set(counts) == all_places
        if tag == "acquisition" and set(counts) != all_places:  # beds of one volume overlap
            return False
        if len(counts) >= _MIN_COVERED * len(all_places):
            covering += len(group)
    return whole and covering >= _MIN_COVERING * len(slices)


def _labels(tag: str, values: list) -> list[str]:
    if tag != "image_type":
        return [
            f"{tag}={'none' if value is None else f'{value:g}' if isinstance(value, float) else value}"
            for value in values
        ]
    longest = max(map(len, values))
    padded = [(*value, *[""] * (longest - len(value))) for value in values]
    differing = [at for at in range(longest) if len({value[at] for value in padded}) > 1]
    return ["image_type=" + "\\".join(value[at] for at in differing) for value in padded]


def _split_by_order(slices: Sequence[SliceHeader], places: Sequence[int]) -> list[list[SliceHeader]]:
    """Return the first slice of every position, then the second of every position, and so on."""
    at_place: dict[int, list[SliceHeader]] = defaultdict(list)
    for header, place in zip(slices, places, strict=True):
        at_place[place].append(header)
    return [list(volume) for volume in zip(*(sorted(group, key=_order) for group in at_place.values()), strict=True)]


def _order(header: SliceHeader) -> tuple:
    numbers = (header.temporal_position, header.trigger_time, header.acquisition, header.instance)
    return (*(number if number is not None else 0.0 for number in numbers), header.file.file, header.frame)
