"""Series that may be taken for one channel of a case: by the rules, or by ``--map``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnunet_anatomix.clinical.intake.channel_words import is_label_map
from nnunet_anatomix.clinical.intake.mapping import ChannelMap, map_line
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.suitability import (
    extent_mm,
    find_doubt,
    find_exclusion,
    find_mismatch,
    find_suv_problem,
    rank_key,
)
from nnunet_anatomix.clinical.intake.volume_choice import asked_words, find_ambiguous, find_volume_mismatch

_DOUBT, _MISMATCH, _EXCLUSION = 1, 2, 3


@dataclass(frozen=True)
class Misfit:
    """Rule that a series breaks which ``--map`` asks for."""

    level: int
    """Weight of the rule: series that break a lighter one go first."""
    reason: str


@dataclass(kw_only=True)
class Verdict:
    """Series of a case that may be taken for one channel, and why others may not."""

    fitting: list[int] = field(default_factory=list)
    misfits: dict[int, Misfit] = field(default_factory=dict)
    """Rules broken by fitting series, which only ``--map`` makes possible."""
    rejections: dict[int, str] = field(default_factory=dict)
    offers: list[int] = field(default_factory=list)
    """Rejected series that ``--map`` would take; the reason of the rejection has the option."""

    def reject_all(self, reasons: Mapping[int, str]) -> None:
        """Reject fitting series, each for its reason."""
        self.rejections |= reasons
        self.fitting = [number for number in self.fitting if number not in reasons]
        self.offers += reasons

    def rank(self, found: Mapping[int, Series], number: int) -> tuple[float, ...]:
        """Return the sort key of a fitting series; the smallest key fits best."""
        misfit = self.misfits.get(number)
        longest_mm = max(extent_mm(found[fitting]) for fitting in self.fitting)
        return (misfit.level if misfit else 0, *rank_key(found[number], longest_mm))


def judge_candidates(
    numbers: Sequence[int],
    found: Mapping[int, Series],
    channel: Channel,
    mapped: ChannelMap,
    *,
    alone: bool,
    names: set[str],
) -> Verdict:
    """Judge the series of a case for one channel.

    Args:
        numbers: Numbers of the case's series.
        found: Series number → series.
        channel: Channel of the model.
        mapped: The user's map of the channel. The rules rank the series that it matches. Those that
            a rule excludes are taken only if the map names them; see
            :meth:`ChannelMap.overrides_rules`.
        alone: True if the model has one channel.
        names: Paths of all image files.
    """
    verdict = Verdict()
    by_uid = any(mapped.names(found[number]) for number in numbers)
    for number in numbers:
        series = found[number]
        if by_uid and not mapped.selects(series):
            reason = "--map selects another series"
        elif mapped.has_patterns and not by_uid and not mapped.matches(series):
            reason = "does not match --map"
        else:
            reason = ""
        if reason := series.problem or reason:
            verdict.rejections[number] = reason
        elif by_uid or mapped.has_patterns:
            _judge_mapped(verdict, number, series, channel, mapped, alone=alone, names=names)
        elif reason := (
            find_mismatch(series, channel, alone=alone, names=names) or find_volume_mismatch(series, channel.name)
        ):
            verdict.rejections[number] = reason
        elif doubt := find_doubt(series, channel, names=names):
            verdict.rejections[number] = f"{doubt}; to take it: {map_line(channel, series)}"
            verdict.offers.append(number)
        else:
            verdict.fitting.append(number)
    asked = "volume" in mapped.patterns or (not mapped.chooses and bool(asked_words(channel.name)))
    if not asked:
        _drop_excluded_volumes(verdict, found)
    reasons = {number: verdict.rejections.get(number, "") for number in numbers}
    verdict.reject_all(find_ambiguous(numbers, reasons, found, channel.number, asked=asked))
    return verdict


def _drop_excluded_volumes(verdict: Verdict, found: Mapping[int, Series]) -> None:
    """Reject volumes that a rule excludes if ``--map`` names their series, which has others."""
    excluded = {number for number, misfit in verdict.misfits.items() if misfit.level == _EXCLUSION}
    kept = {found[number].series_uid for number in verdict.fitting if number not in excluded}
    for number in excluded:
        if found[number].volume and found[number].series_uid in kept:
            verdict.rejections[number] = verdict.misfits.pop(number).reason
            verdict.fitting.remove(number)


def _judge_mapped(
    verdict: Verdict,
    number: int,
    series: Series,
    channel: Channel,
    mapped: ChannelMap,
    *,
    alone: bool,
    names: set[str],
) -> None:
    if problem := find_suv_problem(series, channel):
        verdict.rejections[number] = f"{problem}; --map {channel.number}=unit:stored takes its values as stored"
        return
    exclusion = find_exclusion(series, channel.kind or series.modality or series.kind)
    if exclusion and not mapped.overrides_rules(series):
        verdict.rejections[number] = f"{exclusion}; to take it: {map_line(channel, series)}"
        if not (series.has_label_values or is_label_map(series.files[0])):  # a folder may hold hundreds
            verdict.offers.append(number)
        return
    verdict.fitting.append(number)
    if exclusion:
        verdict.misfits[number] = Misfit(_EXCLUSION, exclusion)
    elif channel.is_informative and (mismatch := find_mismatch(series, channel, alone=alone, names=names)):
        verdict.misfits[number] = Misfit(_MISMATCH, mismatch)
    elif doubt := find_doubt(series, channel, names=names):
        verdict.misfits[number] = Misfit(_DOUBT, doubt)
