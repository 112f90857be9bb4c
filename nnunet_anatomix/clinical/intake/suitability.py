"""Whether a sound series may serve a channel, and how well: the rules, from modality, words, image type, size and orientation."""

from __future__ import annotations

import re

import numpy as np

from nnunet_anatomix.clinical.intake.channel_words import (
    CONTRASTS,
    channel_number,
    is_label_map,
    modalities_in,
    modalities_of_file,
    tokens,
)
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.phrases import code_word
from pretraining.imaging.grids import Grid

MIN_SLICES = 5
"""Fewer is a localizer or a sample, no volume."""
_EXCLUDED_WORDS = {
    "localizer": r"localizer|localiser|loc|scout|topogram|topo|surview|scanogram|survey|3plane",
    "dose report or protocol": r"dose (report|info|record|summary|sheet|page)|(patient|exam) protocol",
    "projection (MIP or rendering)": r"mip|mips|minip|minips|vrt|rendering",
    "reformatted": r"mpr|mprs|reformat|reformats|reformatted|curved",
    "subtraction": r"sub|subtr|subtraction|subtracted|dsa",
    "screenshot": r"screenshot|screensave|screencapture|capture|fusion|fused",
    "monitoring of contrast agent": r"monitoring|premonitoring|smartprep",
    "derived map": r"derived|adc|eadc|trace|tracew|fa|colfa|cbf|cbv|rcbf|rcbv|mtt|ttp|tmax|map|maps|t1map|t2map|b0map",
    "not attenuation-corrected": r"nac|uncorrected",
}
_MODALITY = {"CT": "CT", "PET": "PT", "SPECT": "NM"}
_SHARP_KERNEL = r"lung|bone|bone\+|boneplus|edge|detail|[a-z]{1,2}[6-9]\d[a-z]?|ya|yb|yc|yd|d|l|fc[358]\d"


def unfit(series: Series, channel: Channel, *, alone: bool, names: set[str]) -> str:
    """Why a sound series cannot serve a channel; nothing if it can.

    Args:
        alone: Whether the model has no other channel: then a file whose name says nothing is taken.
        names: Of all image files.
    """
    if (slices := series.placed.size[2]) < MIN_SLICES:
        return f"only {slices} slices"
    if series.kind == "image":
        return _image_unfit(series, channel, alone, names)
    kind = channel.kind
    modality = _MODALITY.get(kind, "MR" if kind else series.modality)
    if series.modality != modality:
        return f"modality {code_word(series.modality)}, needed is {modality}"
    if not kind:
        return (
            ""
            if set(tokens(channel.name)) <= set(tokens(series.description))
            else f"description does not say {channel.name}"
        )
    if reason := _not_original(series):
        return reason
    if kind == "CT" and orientation(series.placed) not in ("axial", "oblique axial"):
        return f"reformatted ({orientation(series.placed)}; CT is acquired in axial slices)"
    if kind == "CT" and series.rescale_type.upper() not in ("", "HU", "US"):
        return f"values are {code_word(series.rescale_type.upper())}, not Hounsfield units"
    if kind in CONTRASTS:
        said = modalities_in(series.description) & set(CONTRASTS)
        if said == {"T1"} and series.contrast_agent and kind == "T1CE":
            said = {"T1CE"}
        if said != {kind}:
            return (
                f"description says {_spoken(said)}, needed is {_spoken({kind})}"
                if said
                else f"description does not say {_spoken({kind})}"
            )
    return ""


def _image_unfit(series: Series, channel: Channel, alone: bool, names: set[str]) -> str:
    file = series.files[0]
    if is_label_map(file):
        return "label map, as its name says"
    number = channel_number(file, names)
    if number is not None:
        return "" if number == channel.number else f"name says channel {number}"
    said, kind = modalities_of_file(file), channel.kind
    if not kind:
        return "" if set(tokens(channel.name)) <= set(tokens(file)) else f"name does not say {channel.name}"
    if kind == "MR":
        fits = bool(said & {"MR", *CONTRASTS})
    elif kind in CONTRASTS:
        fits = said & set(CONTRASTS) == {kind} or (alone and said == {"MR"})
    else:
        fits = kind in said
    if fits or (alone and not said):
        return ""
    return f"name says {_spoken(said)}, needed is {_spoken({kind})}" if said else "name says no channel"


def _not_original(series: Series) -> str:
    kinds = [value.upper() for value in series.image_type]
    written = "\\".join(map(code_word, kinds[:3]))
    if "LOCALIZER" in kinds:
        return "localizer (ImageType)"
    if kinds[1:2] == ["SECONDARY"]:
        return f"secondary image (ImageType {written})"
    if any(value in ("MPR", "PROJECTION IMAGE", "MIP", "MINIP", "REFORMATTED") for value in kinds[2:]):
        return f"reformatted or projected (ImageType {written})"
    if kinds[:1] == ["DERIVED"]:
        return f"derived image (ImageType {written})"
    if series.modality == "MR" and kinds[2:3] in (["P"], ["PHASE"], ["PHASE MAP"], ["R"], ["I"]):
        return "phase, real or imaginary part, not magnitude (ImageType)"
    words = " ".join(tokens(series.description))
    for what, pattern in _EXCLUDED_WORDS.items():
        # Siemens calls MPRAGE "mpr": in MR the word says nothing about an original image.
        if what == "reformatted" and series.modality == "MR" and kinds[:1] == ["ORIGINAL"]:
            continue
        if re.search(rf"(?<!\S)({pattern})(?!\S)", words):
            return f"{what} (description)"
    return ""


def rank(series: Series, channel: Channel) -> tuple[float, ...]:
    """Smaller fits better: no contrast agent unless asked for, more slices, finer slices, larger field of view, softer kernel."""
    grid = series.placed
    agent = channel.kind == "T1" and series.contrast_agent
    field_mm2 = grid.size[0] * grid.spacing_mm[0] * grid.size[1] * grid.spacing_mm[1]
    return agent, -grid.size[2], round(grid.spacing_mm[2], 3), -round(field_mm2), _is_sharp(series)


RANKED = ("no contrast agent", "more slices", "thinner slices", "larger field of view", "softer kernel")


def _is_sharp(series: Series) -> bool:
    return any(re.fullmatch(_SHARP_KERNEL, word) for word in re.split(r"[\s\\,;]+", series.kernel.lower()) if word)


def orientation(grid: Grid) -> str:
    """axial, coronal or sagittal, with "oblique" before it where slices lean by more than 20 degrees or so."""
    normal = np.abs(np.array(grid.direction).reshape(3, 3)[:, 2])
    axis = int(normal.argmax())
    return ("" if normal[axis] > 0.94 else "oblique ") + ("sagittal", "coronal", "axial")[axis]


def _spoken(kinds: set[str]) -> str:
    return " and ".join("T1 after contrast agent" if kind == "T1CE" else kind for kind in sorted(kinds))
