"""Judgement of whether an MR scan shows a contrast agent, from its words, tags and study.

Descriptions and the tags ContrastBolusAgent and ContrastBolusStartTime are evidence. The standard
demands these tags if an agent was used, but many devices leave them empty, so that a scan of which
nothing speaks is compared with the other scans of its study.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnunet_anatomix.clinical.dicom.content import DAY_S
from nnunet_anatomix.clinical.intake.agent_evidence import UNMARKED, AgentEvidence
from nnunet_anatomix.clinical.intake.channel_words import channel_text_of_file, modalities_in, tokenize
from nnunet_anatomix.clinical.intake.contrast_words import agent_in
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.volume_choice import differ_in_time
from pretraining.imaging.grids import same_grid

_PERFUSION = r"perf|perfusion|dsc|dce|twist|tricks|permeability"
"""Words of series that are acquired while an agent is injected; perfusion by ASL needs none."""


def judge_agents(found: Mapping[int, Series]) -> dict[int, Series]:
    """Return the series with :attr:`Series.agent` set.

    Args:
        found: Series number → series.
    """
    studies: dict[tuple[str, str, str], dict[int, Series]] = defaultdict(dict)
    for number, series in found.items():
        studies[(series.kind, *series.case_key)][number] = series
    judged = {}
    for study in studies.values():
        own = {number: judge_alone(series) for number, series in study.items()}
        for number, series in study.items():
            evidence = own[number]
            if evidence.state == "unmarked" and series.modality == "MR":
                evidence = _judge_in_study(number, study, own)
            elif evidence.state == "enhanced" and _is_told_by_tag_alone(series):
                evidence = _judge_tag(study, own, evidence)
            judged[number] = replace(series, agent=evidence)
    return {number: judged[number] for number in found}


def judge_alone(series: Series) -> AgentEvidence:
    """Judge a scan by its own words and tags."""
    words = set(agent_in(series.description if series.kind == "dicom" else channel_text_of_file(series.files[0])))
    flavours = {value.upper() for value in series.image_type[2:]}
    words |= {said for said, flavour in ((True, "POST_CONTRAST"), (False, "PRE_CONTRAST")) if flavour in flavours}
    tags = _agent_by_tags(series)
    if len(words) > 1:
        return AgentEvidence("unclear", "description does not tell whether it is before or after contrast agent")
    if len(tags) > 1:
        return AgentEvidence("unclear", "contrast agent is given during the acquisition (ContrastBolusStartTime)")
    if words and tags and words != tags:
        said, tagged = ("after" if True in each else "before or without" for each in (words, tags))
        return AgentEvidence("unclear", f"description says {said} contrast agent, the tags say {tagged}")
    evidence = words | tags
    return AgentEvidence("enhanced" if True in evidence else "native") if evidence else UNMARKED


def _agent_by_tags(series: Series) -> set[bool]:
    content = series.content
    if content.agent is None and content.agent_start_s is None:
        return set()
    if content.agent is False:
        return {False}
    if content.agent_start_s is None or content.acquired_s is None:
        return {True} if content.agent else set()
    first, last = (_since(content.agent_start_s, moment) for moment in content.acquired_s)
    return {True} if first >= 0 else {False} if last < 0 else {True, False}


def _is_told_by_tag_alone(series: Series) -> bool:
    return not agent_in(series.description) and series.content.agent_start_s is None


def _judge_tag(study: Mapping[int, Series], own: Mapping[int, AgentEvidence], evidence: AgentEvidence) -> AgentEvidence:
    """Doubt a tag that does not tell the scans of a study apart, as if set at registration."""
    others = [scan for scan in study.values() if scan.modality == "MR" and not scan.problem]
    if len(others) > 1 and all(scan.content.agent for scan in others):
        return AgentEvidence("unclear", "every series of the study names a contrast agent, also those before it")
    if any(scan.content.agent and agent_in(scan.description) == {False} for scan in others):
        return AgentEvidence("unclear", "the tags name a contrast agent also in series without it")
    return evidence


def _since(start_s: float, moment_s: float) -> float:
    """Return the seconds from a time of day to a moment less than 12 hours away from it."""
    return (moment_s - start_s + DAY_S / 2) % DAY_S - DAY_S / 2


def _judge_in_study(number: int, study: Mapping[int, Series], own: Mapping[int, AgentEvidence]) -> AgentEvidence:
    """Judge a scan of which nothing speaks by the other scans of its study."""
    series = study[number]
    enhanced = [
        other
        for other, scan in study.items()
        if scan.modality == "MR" and (own[other].state == "enhanced" or _needs_agent(scan))
    ]
    if not enhanced:
        twins = [other for other in study if other != number and _is_twin(series, study[other], own[other])]
        if twins:
            return AgentEvidence(
                "unclear",
                f"series {_join(twins)} has the same description; nothing tells which is before contrast agent",
            )
        return UNMARKED
    after = [other for other in enhanced if _starts_before(study[other], series)]
    if after:
        return AgentEvidence("unclear", f"acquired after series {_join(after)}, which has contrast agent")
    if all(_starts_before(series, study[other]) for other in enhanced) or any(
        study[other].content.agent or "T1CE" in modalities_in(study[other].description) for other in enhanced
    ):
        return UNMARKED
    return AgentEvidence(
        "unclear", f"series {_join(enhanced)} has contrast agent; nothing tells whether this one is before it"
    )


def _starts_before(first: Series, second: Series) -> bool:
    times = first.content.acquired_s, second.content.acquired_s
    return times[0] is not None and times[1] is not None and times[0][0] < times[1][0]


def _needs_agent(series: Series) -> bool:
    words = tokenize(series.description)
    return "asl" not in words and any(re.fullmatch(_PERFUSION, word) for word in words)


def _is_twin(series: Series, other: Series, evidence: AgentEvidence) -> bool:
    """Return whether another acquisition has the same words, and the same planes."""
    if other.problem or evidence.state != "unmarked" or "T1" not in modalities_in(series.description):
        return False
    if "DERIVED" in (value.upper() for value in (*series.image_type[:1], *other.image_type[:1])):
        return False
    if series.content.part or other.content.part or series.description.lower() != other.description.lower():
        return False
    if (
        series.series_uid
        and series.series_uid == other.series_uid
        and not (differ_in_time(series) or differ_in_time(other))
    ):
        return False  # echoes or Dixon images of one acquisition
    times = series.content.acquired_s, other.content.acquired_s
    if times[0] is not None and times[0] == times[1]:  # one acquisition, reconstructed twice
        return False
    return bool(series.grid and other.grid) and same_grid(series.known_grid, other.known_grid, within_vox=1.0)


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
