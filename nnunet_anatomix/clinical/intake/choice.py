"""Which series serve which channels of a case: rules or ``--map`` say what may, ranks say what does, and channels must lie together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnunet_anatomix.clinical.intake.mapping import ChannelMap
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.suitability import RANKED, rank, unfit
from pretraining.imaging.grids import ROUNDED_HEADERS_VOX, same_grid

_NO_MAP = ChannelMap()


@dataclass(kw_only=True)
class CaseChoice:
    """One patient's study (or one folder's scan) and what was made of it."""

    key: tuple[str, str]
    series: list[int]
    """Numbers of all its series."""
    chosen: tuple[int, ...] = ()
    """Number of each channel's series; empty if the case is not taken."""
    resampled: tuple[bool, ...] = ()
    reason: str = ""
    """Why the case is not taken."""
    said: dict[int, str] = field(default_factory=dict)
    """Series number → why it was taken or not."""
    channel_of: dict[int, int] = field(default_factory=dict)
    has_candidates: bool = False
    """Whether any series may serve any channel; else it is no case at all."""


def choose(
    found: Mapping[int, Series], channels: Sequence[Channel], maps: Mapping[int, ChannelMap]
) -> list[CaseChoice]:
    """Choose for every case, cases in the order of their first series.

    Args:
        found: Series by number.
        channels: Of the model.
        maps: What the user said, by channel; goes before the rules but never before soundness.

    Notes:
        The same input gives the same choice: what no rank can decide is decided by the series'
            numbers, and said.
    """
    names = {series.files[0] for series in found.values() if series.kind == "image"}
    cases: dict[tuple[str, str, str], CaseChoice] = {}
    for number, series in found.items():
        cases.setdefault((series.kind, *series.case_key), CaseChoice(key=series.case_key, series=[])).series.append(
            number
        )
    choices = list(cases.values())
    if len(channels) > 1:
        choices = _folders_as_cases(choices, found, channels, names)
    for case in choices:
        _choose(case, found, channels, maps, names)
    return choices


def _folders_as_cases(
    cases: list[CaseChoice], found: Mapping[int, Series], channels: Sequence[Channel], names: set[str]
) -> list[CaseChoice]:
    """Image files of one folder are one case if each channel has one file that fits there, whatever the names have in common."""
    by_folder: dict[str, list[CaseChoice]] = defaultdict(list)
    for case in cases:
        if found[case.series[0]].kind == "image":
            by_folder[found[case.series[0]].folder].append(case)
    for folder, inside in by_folder.items():
        numbers = [number for case in inside for number in case.series]
        sound = [found[number] for number in numbers if not found[number].problem]
        fitting = [
            [series for series in sound if not unfit(series, channel, alone=False, names=names)] for channel in channels
        ]
        if len(inside) > 1 and all(len(series) == 1 for series in fitting):
            inside[0].key, inside[0].series = (folder, ""), numbers
            cases = [case for case in cases if case is inside[0] or case not in inside]
    return cases


def _choose(
    case: CaseChoice,
    found: Mapping[int, Series],
    channels: Sequence[Channel],
    maps: Mapping[int, ChannelMap],
    names: set[str],
) -> None:
    reasons: dict[int, list[str]] = {number: [] for number in case.series}
    candidates: list[list[int]] = []
    for channel in channels:
        fitting = []
        mapped = maps.get(channel.number, _NO_MAP)
        named = any(mapped.names(found[number]) for number in case.series)
        for number in case.series:
            series = found[number]
            if named:
                reason = "" if mapped.names(series) else "--map names another series"
            elif mapped.has_patterns:
                reason = "" if mapped.matches(series) else "does not match --map"
            else:
                reason = "" if series.problem else unfit(series, channel, alone=len(channels) == 1, names=names)
            reasons[number].append(series.problem or reason)
            if not (series.problem or reason):
                fitting.append(number)
        candidates.append(
            [number for _, number in sorted((rank(found[number], channel), number) for number in fitting)]
        )
    case.has_candidates = any(candidates)
    for number, said in reasons.items():
        fits = [channel for channel, reason in zip(channels, said, strict=True) if not reason]
        if not fits:
            different = list(dict.fromkeys(said))
            if len(different) > 1:
                different = [f"{channel}: {reason}" for channel, reason in zip(channels, said, strict=True)]
            case.said[number] = "; ".join(different)
    together = _together(candidates, found)
    if not together:
        missing = [str(channel) for channel, fitting in zip(channels, candidates, strict=True) if not fitting]
        if missing:
            case.reason = f"no series for {' and '.join(missing)}"
        else:
            case.reason = "series for the channels lie on different grids in different frames of reference"
    else:
        case.chosen = tuple(number for number, _ in together)
        case.resampled = tuple(resampled for _, resampled in together)
    for channel, fitting in zip(channels, candidates, strict=True):
        for number in fitting:
            if number in case.said and number not in case.chosen:
                continue
            if not case.chosen:
                case.said[number] = f"case not taken: {case.reason}"
            elif number in case.chosen:
                case.channel_of[number] = case.chosen.index(number)
            else:
                best = case.chosen[channel.number]
                case.said[number] = f"series {best} fits better: {_why(found[best], found[number], channel)}"
    for number, index in case.channel_of.items():
        ties = [
            other
            for other in candidates[index]
            if other not in case.chosen and rank(found[other], channels[index]) == rank(found[number], channels[index])
        ]
        case.said[number] = _taken(found[number], case.resampled[index], ties)


def _together(candidates: list[list[int]], found: Mapping[int, Series]) -> list[tuple[int, bool]]:
    """A series for each channel, all on the first one's grid or in its frame of reference; the best first one that allows it."""
    for first in candidates[0]:
        chosen = [(first, False)]
        for fitting in candidates[1:]:
            free = [number for number in fitting if number not in [number for number, _ in chosen]]
            on_grid = [number for number in free if lie_together(found[first], found[number]) == "grid"]
            in_frame = [number for number in free if lie_together(found[first], found[number]) == "frame"]
            if not on_grid + in_frame:
                break
            chosen.append((on_grid[0], False) if on_grid else (in_frame[0], True))
        else:
            return chosen
    return []


def lie_together(first: Series, other: Series) -> str:
    """``grid`` if both have one grid, ``frame`` if only positions mean the same in both, nothing if neither is known."""
    if first.kind != other.kind:
        return ""
    if first.kind == "dicom" and (not first.frame_uid or first.frame_uid != other.frame_uid):
        return ""
    if same_grid(first.placed, other.placed, within_vox=ROUNDED_HEADERS_VOX):
        return "grid"
    return "frame" if first.kind == "dicom" else ""


def _why(best: Series, other: Series, channel: Channel) -> str:
    for better, worse, what in zip(rank(best, channel), rank(other, channel), RANKED, strict=True):
        if better < worse:
            return what
        if better > worse:
            return "it lies on the grid of channel 0, or in its frame of reference"
    return "equally well, but comes first"


def _taken(series: Series, resampled: bool, ties: list[int]) -> str:
    parts = list(series.notes)
    if resampled:
        parts.append("resampled onto the grid of channel 0 (same frame of reference)")
    if series.kind == "image" and not series.modality:
        parts.append("the file does not tell its modality")
    if series.kind == "dicom" and series.modality == "PT":
        parts.append("values as stored, not converted to SUV")
    if ties:
        parts.append(f"series {', '.join(map(str, ties))} would fit as well; the first was taken, --map can change it")
    return "; ".join(parts)
