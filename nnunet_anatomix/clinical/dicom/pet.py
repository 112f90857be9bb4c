"""Standardized uptake value by body weight (SUVbw) of DICOM PET, after the rules of QIBA.

SUVbw = activity concentration × body weight / injected activity, the latter decayed to the time to
which the scanner corrected the images, in g/ml.

References:
    QIBA Profile FDG-PET/CT as an Imaging Biomarker, RSNA; vendor-neutral computation of SUV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.tag import BaseTag, Tag

from nnunet_anatomix.clinical.dicom.content import DAY_S, SeriesContent, parse_date_time
from nnunet_anatomix.clinical.phrases import redact_free_text
from pretraining.imaging.rejection import Unusable

WEIGHT_KG = (1.0, 400.0)
DOSE_BQ = (1e6, 2e10)
HALF_LIFE_S = (30.0, 1e6)
MAX_HALF_LIVES = 10.0
"""Largest time from injection to scan, half-lives; more points to a wrong date or time."""
_GE_SCAN_CREATOR, _GE_SCAN_TIME = Tag(0x0009, 0x0010), Tag(0x0009, 0x100D)
_PHILIPS_CREATOR = Tag(0x7053, 0x0010)
_PHILIPS_SUV, _PHILIPS_ACTIVITY = Tag(0x7053, 0x1000), Tag(0x7053, 0x1009)
_KEYWORDS = (
    "PatientWeight",
    "DecayCorrection",
    "SUVType",
    "SeriesDate",
    "SeriesTime",
    "RadiopharmaceuticalInformationSequence",
)
_PRIVATE = (_GE_SCAN_CREATOR, _GE_SCAN_TIME, _PHILIPS_CREATOR, _PHILIPS_SUV, _PHILIPS_ACTIVITY)
_READ: list[BaseTag] = [*map(Tag, _KEYWORDS), *_PRIVATE]


@dataclass(frozen=True, kw_only=True)
class PetFacts:
    """Tags of one image of a PET series. Missing or damaged numbers are None."""

    weight_kg: float | None = None
    decay_correction: str = ""
    """DecayCorrection: START, ADMIN or NONE."""
    suv_type: str = ""
    series_s: float | None = None
    """SeriesDate and SeriesTime, seconds since 1 January of year 1, as all times."""
    ge_scan_s: float | None = None
    """GE's private time of the scan's start."""
    tracers: int = 0
    """Number of radiopharmaceuticals."""
    dose_bq: float | None = None
    half_life_s: float | None = None
    injected_s: float | None = None
    has_injection_date: bool = False
    """False if only the time of day is known; the date is then that of the series."""
    philips_suv: float | None = None
    """Philips's private factor from counts to SUVbw."""
    philips_activity: float | None = None
    """Philips's private factor from counts to Bq/ml."""
    damaged: tuple[str, ...] = field(default=())
    """Keywords whose values cannot be read."""


def read_pet_facts(path: Path) -> PetFacts:
    """Read the tags that SUV depends on from one image of a series."""
    try:
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=_READ)
        tracers = dataset.get("RadiopharmaceuticalInformationSequence") or []
        tracer = tracers[0] if len(tracers) else Dataset()
        series_date = str(dataset.get("SeriesDate") or "")
        moment = str(tracer.get("RadiopharmaceuticalStartDateTime") or "")
        injected = parse_date_time(moment[:8], moment[8:])
        clock = str(tracer.get("RadiopharmaceuticalStartTime") or "")
        ge = _private_text(dataset, _GE_SCAN_CREATOR, "GEMS_PETD_01", _GE_SCAN_TIME)
        return PetFacts(
            weight_kg=_number(dataset, "PatientWeight"),
            decay_correction=str(dataset.get("DecayCorrection") or "").upper(),
            suv_type=str(dataset.get("SUVType") or "").upper(),
            series_s=parse_date_time(series_date, str(dataset.get("SeriesTime") or "")),
            ge_scan_s=parse_date_time(ge[:8], ge[8:]),
            tracers=len(tracers),
            dose_bq=_number(tracer, "RadionuclideTotalDose"),
            half_life_s=_number(tracer, "RadionuclideHalfLife"),
            injected_s=parse_date_time(series_date, clock) if injected is None else injected,
            has_injection_date=injected is not None,
            philips_suv=_private_number(dataset, _PHILIPS_SUV),
            philips_activity=_private_number(dataset, _PHILIPS_ACTIVITY),
        )
    except Exception:  # pydicom raises many types for damaged values
        return PetFacts(damaged=("PET tags",))


def suv_factor(facts: PetFacts, content: SeriesContent) -> float:
    """Return the factor from the rescaled values of a series to SUVbw, g/ml.

    Args:
        facts: Tags of the series.
        content: Content of its images.

    Raises:
        Unusable: If unit, corrections, weight, dose or times do not suffice.
    """
    if facts.damaged:
        raise Unusable("no SUV: the tags of PET are damaged")
    if content.unit == "GML":
        if facts.suv_type not in ("", "BW"):
            raise Unusable(f"no SUV by body weight: SUVType is {redact_free_text(facts.suv_type)}")
        return 1.0
    _require_corrections(facts, content)
    if content.unit == "CNTS" and facts.philips_suv:
        return facts.philips_suv
    to_activity = 1.0
    if content.unit == "CNTS" and facts.philips_activity:
        to_activity = facts.philips_activity
    elif content.unit != "BQML":
        raise Unusable(f"no SUV: Units is {_say(content.unit)}, expected BQML")
    weight_kg = _require("PatientWeight", facts.weight_kg, WEIGHT_KG, "kg")
    if facts.tracers != 1:
        raise Unusable(f"no SUV: {facts.tracers} radiopharmaceuticals, expected 1")
    dose_bq = _require("RadionuclideTotalDose", facts.dose_bq, DOSE_BQ, "Bq")
    if facts.decay_correction == "ADMIN":  # the images are corrected to the injection already
        return to_activity * 1000 * weight_kg / dose_bq
    half_life_s = _require("RadionuclideHalfLife", facts.half_life_s, HALF_LIFE_S, "s")
    waited_s = _time_from_injection(facts, content)
    if not 0 <= waited_s <= MAX_HALF_LIVES * half_life_s:
        raise Unusable(
            f"no SUV: the scan starts {waited_s / 60:.0f} min after the injection, expected 0 to "
            f"{MAX_HALF_LIVES * half_life_s / 60:.0f}"
        )
    return to_activity * 1000 * weight_kg / (dose_bq * math.exp2(-waited_s / half_life_s))


def _require_corrections(facts: PetFacts, content: SeriesContent) -> None:
    for code, name in (("ATTN", "attenuation"), ("DECY", "decay")):
        if code not in content.corrections:
            raise Unusable(f"no SUV: CorrectedImage does not list {code} ({name})")
    if facts.decay_correction not in ("START", "ADMIN"):
        raise Unusable(f"no SUV: DecayCorrection is {_say(facts.decay_correction)}, expected START or ADMIN")


def _say(code: str) -> str:
    return redact_free_text(code) if code else "missing"


def _require(tag: str, value: float | None, limits: tuple[float, float], unit: str) -> float:
    if value is None:
        raise Unusable(f"no SUV: {tag} is missing")
    if not limits[0] <= value <= limits[1]:
        raise Unusable(f"no SUV: {tag} is {value:g} {unit}, expected {limits[0]:g} to {limits[1]:g}")
    return value


def _time_from_injection(facts: PetFacts, content: SeriesContent) -> float:
    """Return the seconds from the injection to the time to which the images are decay-corrected.

    That is the start of the series, unless the series was processed again later than it was
    acquired; then GE's private time, else the first acquisition.
    """
    acquired = content.acquired_s[0] if content.acquired_s and content.acquired_s[0] > DAY_S else None
    if facts.series_s is not None and acquired is not None and facts.series_s <= acquired:
        start = facts.series_s
    elif facts.ge_scan_s is not None:
        start = facts.ge_scan_s
    elif acquired is not None:
        start = acquired
    else:
        raise Unusable("no SUV: the time of the acquisition is missing")
    if facts.injected_s is None:
        raise Unusable("no SUV: the time of the injection is missing")
    injected = facts.injected_s
    if not facts.has_injection_date:
        injected += math.floor((start - injected) / DAY_S) * DAY_S  # the last such time before the scan
    return start - injected


def _number(item: Dataset, keyword: str) -> float | None:
    value = item.get(keyword)
    number = None if value is None or value == "" else float(value)
    return number if number is not None and math.isfinite(number) else None


def _private_text(dataset: Dataset, creator: BaseTag, expected: str, tag: BaseTag) -> str:
    if creator not in dataset or tag not in dataset or str(dataset[creator].value).strip() != expected:
        return ""
    value = dataset[tag].value
    return value.decode("ascii").strip(" \0") if isinstance(value, bytes) else str(value)


def _private_number(dataset: Dataset, tag: BaseTag) -> float | None:
    text = _private_text(dataset, _PHILIPS_CREATOR, "Philips PET Private Group", tag)
    number = float(text) if text else 0.0
    return number if math.isfinite(number) and number > 0 else None
