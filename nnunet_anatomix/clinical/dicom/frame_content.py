"""Content of one frame of an enhanced multi-frame file, from its functional groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydicom import Dataset

from nnunet_anatomix.clinical.dicom.content import Content, find_unit_codes, parse_agent, parse_date_time, parse_time
from nnunet_anatomix.clinical.dicom.signal_parts import find_part

AGENTS = "ContrastBolusAgentSequence"
"""Tag of the file that lists its contrast agents."""


def read_agents(content: Content, dataset: Dataset) -> Content:
    """Add the contrast agents that an enhanced file lists to the content of the file."""
    agents = dataset.get(AGENTS) or ()
    if content.agent is not None or not agents:
        return content
    known: set[bool | None] = set()
    starts: list[float] = []
    for agent in agents:
        route = _first(agent, "ContrastBolusAdministrationRouteSequence").get("CodeMeaning", "")
        meaning = _first(agent, "ContrastBolusIngredientCodeSequence").get("CodeMeaning", "") or agent.get(
            "CodeMeaning", "agent"
        )
        known.add(parse_agent(str(meaning), str(route)))
        start = parse_time(
            str(_first(agent, "ContrastAdministrationProfileSequence").get("ContrastBolusStartTime", ""))
        )
        starts += [] if start is None else [start]
    agent_given = True if True in known else False if False in known else None
    return replace(content, agent=agent_given, agent_start_s=min(starts, default=content.agent_start_s))


def frame_content(content: Content, value: Callable[[str, str], Any], group: Dataset) -> Content:
    """Return the content of a frame.

    Args:
        content: Content of the file.
        value: Function that takes the sequence of a functional group and a keyword in it. It
            returns the value of the frame, else the one that all frames share, else None.
        group: Functional groups of the frame.
    """
    frame_type, component = (value("MRImageFrameTypeSequence", name) for name in ("FrameType", "ComplexImageComponent"))
    part = content.part
    if frame_type or component:
        part = find_part(
            tuple(map(str, frame_type or ())),
            component=str(component or ""),
            units=(str(value("PixelValueTransformationSequence", "RescaleType") or ""), *find_unit_codes(group)),
        )
    given = str(value("ContrastBolusUsageSequence", "ContrastBolusAgentAdministered") or "").upper()
    moment = str(value("FrameContentSequence", "FrameAcquisitionDateTime") or "")
    acquired = parse_date_time(moment[:8], moment[8:])
    return replace(
        content,
        part=part,
        agent={"YES": True, "NO": False}.get(given, content.agent),
        acquired_s=content.acquired_s if acquired is None else acquired,
    )


def _first(item: Dataset, sequence: str) -> Dataset:
    return (item.get(sequence) or [Dataset()])[0]
