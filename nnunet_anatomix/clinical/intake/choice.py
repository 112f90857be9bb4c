"""Choice of one series per channel of a case.

Rules or ``--map`` select the candidates, ranks order them, and all channels of a case must share a
grid or a frame of reference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnunet_anatomix.clinical.dicom.padding import PADDING_HU
from nnunet_anatomix.clinical.intake.candidates import Verdict, judge_candidates
from nnunet_anatomix.clinical.intake.contrast_agent import judge_agents
from nnunet_anatomix.clinical.intake.mapping import ChannelMap
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.originality import find_change, is_changed_ct
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.suitability import RANK_CRITERIA, find_mismatch
from pretraining.imaging.grids import ROUNDED_HEADERS_VOX, same_grid

_NO_MAP = ChannelMap()


@dataclass(kw_only=True)
class CaseChoice:
    """Series of one case (one study, or one scan of a folder) and the choice among them."""

    key: tuple[str, str]
    """Patient and study, or folder and name; see ``Series.case_key``."""
    series: list[int]
    """Numbers of all series of the case."""
    chosen: tuple[int, ...] = ()
    """Number of the series chosen for each channel; empty if the case is not taken."""
    resampled: tuple[bool, ...] = ()
    """Per channel: True if it must be resampled onto the grid of channel 0."""
    reason: str = ""
    """Reason why the case is not taken; empty if it is."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Series number → reason why it is not taken, or remarks on a series that is."""
    channel_of: dict[int, int] = field(default_factory=dict)
    """Series number → index of the channel that it is chosen for."""
    has_candidates: bool = False
    """True if any series fits any channel; otherwise the case gets no number."""


def choose(
    found: Mapping[int, Series], channels: Sequence[Channel], maps: Mapping[int, ChannelMap]
) -> list[CaseChoice]:
    """Choose one series per channel for every case.

    Args:
        found: Series number → series.
        channels: Channels of the model.
        maps: Channel number → the user's choice. It decides which series may be taken, of which
            the rules choose one; a series with a problem is never taken.

    Returns:
        The cases, in the order of their first series.

    Notes:
        The choice is deterministic: the series number decides between equal ranks, and the reason
            says so.
    """
    found = judge_agents(found)
    names = {series.files[0] for series in found.values() if series.kind == "image"}
    cases: dict[tuple[str, str, str], CaseChoice] = {}
    for number, series in found.items():
        cases.setdefault((series.kind, *series.case_key), CaseChoice(key=series.case_key, series=[])).series.append(
            number
        )
    choices = list(cases.values())
    if len(channels) > 1:
        choices = _merge_folder_cases(choices, found, channels, names)
    for case in choices:
        _choose_series(case, found, channels, maps, names)
    return choices


def _merge_folder_cases(
    cases: list[CaseChoice], found: Mapping[int, Series], channels: Sequence[Channel], names: set[str]
) -> list[CaseChoice]:
    """Merge the image files of a folder into one case if exactly one file fits each channel."""
    by_folder: dict[str, list[CaseChoice]] = defaultdict(list)
    for case in cases:
        if found[case.series[0]].kind == "image":
            by_folder[found[case.series[0]].folder].append(case)
    for folder, inside in by_folder.items():
        numbers = [number for case in inside for number in case.series]
        usable = [found[number] for number in numbers if not found[number].problem]
        fitting = [
            [series for series in usable if not find_mismatch(series, channel, alone=False, names=names)]
            for channel in channels
        ]
        if len(inside) > 1 and all(len(series) == 1 for series in fitting):
            inside[0].key, inside[0].series = (folder, ""), numbers
            cases = [case for case in cases if case is inside[0] or case not in inside]
    return cases


def _choose_series(
    case: CaseChoice,
    found: Mapping[int, Series],
    channels: Sequence[Channel],
    maps: Mapping[int, ChannelMap],
    names: set[str],
) -> None:
    alone = len(channels) == 1
    verdicts = [
        judge_candidates(case.series, found, channel, maps.get(channel.number, _NO_MAP), alone=alone, names=names)
        for channel in channels
    ]
    candidates = [sorted(each.fitting, key=lambda number: (each.rank(found, number), number)) for each in verdicts]
    case.has_candidates = any(candidates) or any(each.offers for each in verdicts)
    for number in case.series:
        per_channel = [each.rejections.get(number, "") for each in verdicts]
        if all(per_channel):
            different = list(dict.fromkeys(per_channel))
            if len(different) > 1:
                different = [f"{channel}: {reason}" for channel, reason in zip(channels, per_channel, strict=True)]
            case.reasons[number] = "; ".join(different)
    combination = _combine_channels(candidates, found)
    if not combination:
        case.reason = _explain_missing(channels, candidates, verdicts)
    else:
        case.chosen = tuple(number for number, _ in combination)
        case.resampled = tuple(resampled for _, resampled in combination)
    for channel, fitting, verdict in zip(channels, candidates, verdicts, strict=True):
        for number in fitting:
            if number in case.reasons and number not in case.chosen:
                continue
            if not case.chosen:
                case.reasons[number] = f"case not taken: {case.reason}"
            elif number in case.chosen:
                case.channel_of[number] = case.chosen.index(number)
            else:
                best = case.chosen[channel.number]
                case.reasons[number] = f"series {best} fits better: {_explain_rank(best, number, found, verdict)}"
    for number, index in case.channel_of.items():
        verdict = verdicts[index]
        ties = [
            other
            for other in candidates[index]
            if other not in case.chosen and verdict.rank(found, other) == verdict.rank(found, number)
        ]
        misfit = verdict.misfits.get(number)
        remark = f"taken by --map although: {misfit.reason}" if misfit else ""
        case.reasons[number] = _format_notes(found[number], channels[index], case.resampled[index], ties, remark)


def _explain_missing(
    channels: Sequence[Channel], candidates: Sequence[Sequence[int]], verdicts: Sequence[Verdict]
) -> str:
    missing = [index for index, fitting in enumerate(candidates) if not fitting]
    if not missing:
        return "the series of the channels have different grids and different frames of reference"
    reason = f"no series for {' and '.join(str(channels[index]) for index in missing)}"
    offered = sorted({number for index in missing for number in verdicts[index].offers})
    if offered:
        reason += f"; series {', '.join(map(str, offered))} may be: intake.csv tells the --map to take it"
    return reason


def _combine_channels(candidates: list[list[int]], found: Mapping[int, Series]) -> list[tuple[int, bool]]:
    """Return a series per channel, all in one space, and whether each must be resampled.

    The best series of channel 0 for which this is possible gives the grid.
    """
    for first in candidates[0]:
        chosen = [(first, False)]
        for fitting in candidates[1:]:
            free = [number for number in fitting if number not in [number for number, _ in chosen]]
            on_grid = [number for number in free if common_space(found[first], found[number]) == "grid"]
            in_frame = [number for number in free if common_space(found[first], found[number]) == "frame"]
            if not on_grid + in_frame:
                break
            chosen.append((on_grid[0], False) if on_grid else (in_frame[0], True))
        else:
            return chosen
    return []


def common_space(first: Series, other: Series) -> str:
    """Return what two series share: ``grid``, only the ``frame`` of reference, or an empty text."""
    if first.kind != other.kind:
        return ""
    if first.kind == "dicom" and (not first.frame_uid or first.frame_uid != other.frame_uid):
        return ""
    if same_grid(first.known_grid, other.known_grid, within_vox=ROUNDED_HEADERS_VOX):
        return "grid"
    return "frame" if first.kind == "dicom" else ""


def _explain_rank(best: int, other: int, found: Mapping[int, Series], verdict: Verdict) -> str:
    (level, *best_key), (other_level, *other_key) = verdict.rank(found, best), verdict.rank(found, other)
    if level < other_level:
        return verdict.misfits[other].reason
    for better, worse, criterion in zip(best_key, other_key, RANK_CRITERIA, strict=True):
        if better < worse:
            return criterion
        if better > worse:
            return "shares the grid or the frame of reference of channel 0"
    return "same rank, lower number"


def _describe_unit(series: Series, channel: Channel) -> str:
    if series.content.unit == "GML":
        return "values are SUV as stored"
    if channel.wants_suv:
        return "converted to SUV by body weight"
    return f"values as stored, not converted to SUV; --map {channel.number}=unit:suv converts them"


def _format_notes(series: Series, channel: Channel, resampled: bool, ties: list[int], remark: str) -> str:
    parts = [remark] if remark else []
    parts += series.notes
    if series.modality == "CT" and (padding := series.content.implausible_padding):
        parts.append(f"padding of {padding[0]:.0f} HU replaced by {PADDING_HU}")
    if is_changed_ct(series):
        parts.append(find_change(series))
    if resampled:
        parts.append("resampled onto the grid of channel 0 (same frame of reference)")
    if series.kind == "image" and not series.modality:
        parts.append("modality unknown from the file")
    if series.kind == "dicom" and series.modality == "PT":
        parts.append(_describe_unit(series, channel))
    if channel.kind == "T1" and series.kind == "dicom" and series.agent.state == "unmarked":
        parts.append("no sign of contrast agent")
    if ties:
        parts.append(f"series {', '.join(map(str, ties))} would fit equally well; use --map to choose")
    return "; ".join(parts)
