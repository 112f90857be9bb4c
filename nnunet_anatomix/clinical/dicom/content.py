"""Content of the pixels of a DICOM image: signal, unit, contrast agent and number format.

The rules of the choice of series use it (see :mod:`nnunet_anatomix.clinical.intake.suitability`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pydicom import Dataset

from nnunet_anatomix.clinical.dicom.signal_parts import find_part

KEYWORDS = (
    "ComplexImageComponent",
    "RealWorldValueMappingSequence",
    "ContrastBolusStartTime",
    "ContrastBolusRoute",
    "AcquisitionDateTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "PixelRepresentation",
    "BitsStored",
    "PixelPaddingValue",
    "Units",
    "CorrectedImage",
    "AttenuationCorrectionMethod",
)
"""Standard tags that :func:`read_content` uses, in addition to those of every header."""
PRIVATE_TAGS = {
    "GEImageTypeCreator": (0x0043, 0x0010),
    "GEImageType": (0x0043, 0x102F),
    "PhilipsImageTypeCreator": (0x2005, 0x0010),
    "PhilipsImageType": (0x2005, 0x1011),
}
"""Name → private tag, in the block that the vendor always uses; its creator is checked."""
MAX_TISSUE_HU = 3071.0
"""Largest value of the usual scale of 12 bits."""
DAY_S = 86400.0
"""Seconds of a day."""
_NO_AGENT = r"|no(ne|t? .*)?|n/?a|nil|null|nein|ohne.*|without.*|w/o.*|non.*|sans.*|kein.*|-+|0"
_NOT_INTRAVENOUS = r".*\b(oral|rectal|per os|po)\b.*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Content of one image. Missing or damaged numbers are None, missing texts are empty."""

    part: str = ""
    """Quantity of an MR image other than magnitude, such as ``phase`` or ``T1 map``."""
    agent: bool | None = None
    """Whether ContrastBolusAgent names an agent; None if the tag is missing or empty."""
    agent_start_s: float | None = None
    """Time of day of the injection, seconds."""
    acquired_s: float | None = None
    """Start of the acquisition, seconds since 1 January of year 1."""
    encoding: tuple[float | None, ...] = ()
    """Sign and bits of the stored values; decoders must treat each slice by its own."""
    padding: float | None = None
    """Stored value of voxels outside the scanned region."""
    unit: str = ""
    """Units of a PET image, such as BQML."""
    corrections: tuple[str, ...] = ()
    """CorrectedImage of a PET image."""
    attenuation: str = ""
    """AttenuationCorrectionMethod of a PET image."""


UNKNOWN = Content()


class TagValues(Protocol):
    """Access to tag values by keyword."""

    dataset: Dataset

    def text(self, keyword: str) -> str:
        """Return a text; empty if the tag is missing."""

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the parts of a multi-valued text."""

    def number(self, keyword: str) -> float | None:
        """Return a number; None if the tag is missing or damaged."""


def read_content(values: TagValues, modality: str, image_type: tuple[str, ...]) -> Content:
    """Read the content of one image.

    Args:
        values: Tags of the file.
        modality: Value of Modality; tags of other modalities are not looked up.
        image_type: Values of ImageType.
    """
    encoding = (values.number("PixelRepresentation"), values.number("BitsAllocated"), values.number("BitsStored"))
    if modality == "MR":
        return Content(
            part=_read_part(values, image_type),
            agent=parse_agent(values.text("ContrastBolusAgent"), values.text("ContrastBolusRoute")),
            agent_start_s=parse_time(values.text("ContrastBolusStartTime")),
            acquired_s=_read_acquired(values),
            encoding=encoding,
        )
    if modality == "PT":
        return Content(
            acquired_s=_read_acquired(values),
            encoding=encoding,
            unit=values.text("Units").upper(),
            corrections=tuple(value.upper() for value in values.texts("CorrectedImage")),
            attenuation=values.text("AttenuationCorrectionMethod"),
        )
    return Content(encoding=encoding, padding=values.number("PixelPaddingValue"))


def _read_part(values: TagValues, image_type: tuple[str, ...]) -> str:
    ge = values.number("GEImageType") if values.text("GEImageTypeCreator") == "GEMS_PARM_01" else None
    philips = (
        values.text("PhilipsImageType")
        if values.text("PhilipsImageTypeCreator").lower() == "philips mr imaging dd 001"
        else ""
    )
    return find_part(
        image_type,
        component=values.text("ComplexImageComponent"),
        ge_image_type=ge,
        philips_image_type=philips,
        units=(values.text("RescaleType"), *find_unit_codes(values.dataset)),
        rescale=(values.number("RescaleSlope"), values.number("RescaleIntercept")),
    )


def find_unit_codes(item: Dataset) -> tuple[str, ...]:
    """Return the codes of the units to which a dataset or functional group maps its values."""
    if "RealWorldValueMappingSequence" not in item:
        return ()
    try:
        mappings = item.get("RealWorldValueMappingSequence") or ()
        return tuple(
            str(unit.get("CodeValue", ""))
            for mapping in mappings
            for unit in mapping.get("MeasurementUnitsCodeSequence") or ()
        )
    except Exception:  # damaged, which pydicom reports by many types; no unit is known then
        return ()


def parse_agent(agent: str, route: str = "") -> bool | None:
    """Return whether a contrast agent reached the blood.

    Args:
        agent: ContrastBolusAgent, which may say that there is none.
        route: ContrastBolusRoute.

    Returns:
        None if nothing is known, as when only an oral agent is named.
    """
    text = agent.strip().lower()
    if not text or re.fullmatch(_NOT_INTRAVENOUS, route.lower()) or re.fullmatch(_NOT_INTRAVENOUS, text):
        return None
    return not re.fullmatch(_NO_AGENT, text)


def parse_time(text: str) -> float | None:
    """Convert a DICOM time (HHMMSS.ffffff, or its beginning) to seconds of the day."""
    match = re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d)?(\.\d*)?.*", text.strip())
    if not match or int(match[1]) > 23:
        return None
    return int(match[1]) * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0) + float(f"0{match[4] or '.0'}0")


def parse_date_time(date: str, time: str) -> float | None:
    """Convert a DICOM date and time to seconds since 1 January of year 1; None if unknown."""
    seconds = parse_time(time)
    try:
        day = datetime.strptime(date.strip().replace(".", "")[:8], "%Y%m%d")
    except ValueError:
        return None
    return None if seconds is None else (day - datetime.min) / timedelta(seconds=1) + seconds


def _read_acquired(values: TagValues) -> float | None:
    if whole := values.text("AcquisitionDateTime"):
        return parse_date_time(whole[:8], whole[8:])
    # A series without a date still has an order of times within its study.
    return parse_date_time(values.text("AcquisitionDate") or "00010101", values.text("AcquisitionTime"))


@dataclass(frozen=True, kw_only=True)
class SeriesContent:
    """Content of the images of one series."""

    part: str = ""
    """See :attr:`Content.part`; parts are joined by "and" if the images differ."""
    agent: bool | None = None
    """True if an image names a contrast agent, False if those that say anything deny it."""
    agent_start_s: float | None = None
    acquired_s: tuple[float, float] | None = None
    """First and last start of an acquisition; None if unknown for any image."""
    padding_values: tuple[float, ...] = ()
    """Rescaled values of voxels outside the scanned region."""
    unit: str = ""
    """Units of PET; empty if they are missing or differ."""
    is_attenuation_corrected: bool | None = None
    """None if the tags of PET do not say it, or if the modality is another one."""
    corrections: tuple[str, ...] = ()
    """Values of CorrectedImage that all images have."""

    @property
    def implausible_padding(self) -> tuple[float, ...]:
        """Padding values of a CT that are brighter than any tissue, because their sign is lost."""
        return tuple(value for value in self.padding_values if value > MAX_TISSUE_HU)


UNKNOWN_SERIES = SeriesContent()


def summarize_content(
    contents: Sequence[Content], rescales: Sequence[tuple[float | None, float | None]] = ()
) -> SeriesContent:
    """Summarize the images of one series.

    Args:
        contents: Content of each image.
        rescales: Slope and intercept of each image, None where the tag is missing.
    """
    agents = {content.agent for content in contents} - {None}
    starts = [content.agent_start_s for content in contents if content.agent_start_s is not None]
    acquired = [content.acquired_s for content in contents if content.acquired_s is not None]
    padding = {
        _as_signed(content.padding, content.encoding) * (1.0 if slope is None else slope) + (intercept or 0.0)
        for content, (slope, intercept) in zip(contents, rescales, strict=False)
        if content.padding is not None
    }
    units = {content.unit for content in contents}
    corrected = {_is_attenuation_corrected(content) for content in contents}
    shared = set.intersection(*(set(content.corrections) for content in contents)) if contents else set()
    return SeriesContent(
        part=" and ".join(sorted({content.part or "magnitude" for content in contents} - {"magnitude"})),
        agent=True in agents if agents else None,
        agent_start_s=min(starts, default=None),
        acquired_s=(min(acquired), max(acquired)) if acquired and len(acquired) == len(contents) else None,
        padding_values=tuple(sorted(padding)),
        unit=units.pop() if len(units) == 1 else "",
        is_attenuation_corrected=False if False in corrected else None if None in corrected or not corrected else True,
        corrections=tuple(sorted(shared)),
    )


def _is_attenuation_corrected(content: Content) -> bool | None:
    if content.corrections:
        return "ATTN" in content.corrections
    if content.attenuation:
        return content.attenuation.upper() not in ("NONE", "NO")
    return None


def _as_signed(value: float, encoding: tuple[float | None, ...]) -> float:
    """Return a stored value as the images decode it: the tag's own sign is often wrong."""
    signed, bits = encoding[0], min(int(encoding[1] or 16), 64)
    value %= 1 << bits
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value
