"""Recognition of MR images that are not magnitudes: phase, real and imaginary parts, and maps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_COMPONENTS = {"PHASE": "phase", "REAL": "real part", "IMAGINARY": "imaginary part", "MIXED": "complex parts"}
_GE_PARTS = {1: "phase", 2: "real part", 3: "imaginary part"}
_LETTERS = {"P": "phase", "R": "real part", "I": "imaginary part"}
_TYPES = {
    "phase": r"P( [A-Z0-9]{2,5})?|PHASE( MAP| DIFF\w*)?",
    "real part": r"R( [A-Z0-9]{2,5})?|REAL",
    "imaginary part": r"I( [A-Z0-9]{2,5})?|IMAGINARY",
    "velocity": r"(VELOCITY|FLOW)( MAP)?",
    "B0 map": r"B0( MAP)?|FIELD ?MAP|FREQ( MAP)?|FREQUENCY( MAP)?",
    "B1 map": r"B1( MAP)?",
    "temperature": r"TEMPERATURE",
    "map": r"(.* )?MAPS?|E?ADC|FA|(REG|REL|R)?CB[FV]|MTT|TTP|TMAX|R[12]|R2 ?(STAR|\*)|FF|FAT ?FRAC(TION)?|T[12]MAP",
}
"""Kind → pattern of a value of ImageType, in which blanks replace underscores and hyphens."""
_RELAXATION = r"T1|T2|T2 ?(STAR|\*)|RHO"
"""Values that name a weighting in third place of ImageType (its flavour), and a map after it."""
_UNITS = {
    "phase": r"m?rad(ians?|s)?|milliradians?|deg(rees?)?",
    "velocity": r"[cm]?m/s(ec)?",
    "B0 map": r"hz|hertz|ppm",
    "relaxation or diffusion map": r"m?s|msec|1/s|s-1|(10\^?-\d )?[mu]m2?\^?2?/s(ec)?|(10\^?-\d )?mm\^?2/s(ec)?",
}
"""Kind → pattern of a unit that a magnitude image never has."""
_SIEMENS_PHASE = (2.0, -4096.0)
"""Slope and intercept with which Siemens spreads phase over 12 bits."""


def find_part(
    image_type: Sequence[str],
    *,
    component: str = "",
    ge_image_type: float | None = None,
    philips_image_type: str = "",
    units: Sequence[str] = (),
    rescale: tuple[float | None, float | None] = (None, None),
) -> str:
    """Return what an MR image shows instead of magnitudes; empty for magnitudes.

    Args:
        image_type: Values of ImageType, or of a frame's FrameType.
        component: ComplexImageComponent.
        ge_image_type: GE's private image type (0043,102F): 0 magnitude, 1 phase, 2 real,
            3 imaginary.
        philips_image_type: Philips's private image type (2005,1011): M, P, R or I.
        units: RescaleType, and units of real-world value mappings.
        rescale: RescaleSlope and RescaleIntercept.
    """
    if part := _COMPONENTS.get(component.strip().upper()):
        return part
    if ge_image_type is not None and (part := _GE_PARTS.get(int(ge_image_type))):
        return part
    if part := _LETTERS.get(philips_image_type.strip().upper()):
        return part
    for place, value in enumerate(image_type[2:]):
        text = " ".join(re.split(r"[\s_-]+", value.strip().upper()))
        for kind, pattern in _TYPES.items():
            if re.fullmatch(pattern, text):
                return kind if kind != "map" else _name_map(text)
        if place and re.fullmatch(_RELAXATION, text):
            return f"{text} map"
    for unit in units:
        for kind, pattern in _UNITS.items():
            if re.fullmatch(pattern, unit.strip().lower()):
                return kind
    slope, intercept = rescale
    if (slope, intercept) == _SIEMENS_PHASE:
        return "phase"
    if intercept is not None and any(math.isclose(-intercept, limit, rel_tol=1e-3) for limit in (math.pi, 3141.593)):
        return "phase"  # -π rad or -π mrad, as Philips stores it
    return ""


def _name_map(text: str) -> str:
    name = text.removesuffix("S").removesuffix("MAP").strip()
    return f"{name} map" if re.fullmatch(r"[A-Z0-9 *]{1,16}", name) else "map"
