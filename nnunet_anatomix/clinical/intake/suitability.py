"""Rules that decide which series fit a channel, and how well.

They use modality, description, image type, size, orientation and kernel.
"""

from __future__ import annotations

import re

import numpy as np

from nnunet_anatomix.clinical.intake.channel_words import (
    CONTRASTS,
    is_label_map,
    modalities_in,
    modalities_of_file,
    parse_channel_number,
    tokenize,
)
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.volume_choice import TOO_FEW, volume_words
from nnunet_anatomix.clinical.phrases import redact_free_text
from pretraining.imaging.grids import Grid

MIN_SLICES = 5
"""Smallest number of slices of a volume. A localizer has fewer."""
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


def find_mismatch(series: Series, channel: Channel, *, alone: bool, names: set[str]) -> str:
    """Return why a series does not fit a channel, or an empty text if it fits.

    Args:
        series: Series without a problem.
        channel: Channel of the model.
        alone: True if the model has one channel; an image file whose name states no modality then
            fits.
        names: Paths of all image files.
    """
    if (slices := series.known_grid.size[2]) < MIN_SLICES:
        return f"{TOO_FEW}{slices} slices"
    if series.kind == "image":
        return _find_image_mismatch(series, channel, alone, names)
    kind = channel.kind
    modality = _MODALITY.get(kind, "MR" if kind else series.modality)
    if series.modality != modality:
        return f"modality {redact_free_text(series.modality)}, expected {modality}"
    if not kind:
        return (
            ""
            if set(tokenize(channel.name)) <= {*tokenize(series.description), *volume_words(series)}
            else f"description does not contain {channel.name}"
        )
    if reason := _find_processing(series):
        return reason
    if kind == "CT" and slice_orientation(series.known_grid) not in ("axial", "oblique axial"):
        return f"reformatted ({slice_orientation(series.known_grid)}; CT is acquired in axial slices)"
    if kind == "CT" and series.rescale_type.upper() not in ("", "HU", "US"):
        return f"values are {redact_free_text(series.rescale_type.upper())}, not Hounsfield units"
    if kind in CONTRASTS:
        contrasts = modalities_in(series.description) & set(CONTRASTS)
        if contrasts == {"T1"} and series.contrast_agent and kind == "T1CE":
            contrasts = {"T1CE"}
        if contrasts != {kind}:
            return (
                f"description says {_format_kinds(contrasts)}, expected {_format_kinds({kind})}"
                if contrasts
                else f"description does not say {_format_kinds({kind})}"
            )
    return ""


def _find_image_mismatch(series: Series, channel: Channel, alone: bool, names: set[str]) -> str:
    file = series.files[0]
    if is_label_map(file):
        return "label map (file name)"
    number = parse_channel_number(file, names)
    if number is not None:
        return "" if number == channel.number else f"file name says channel {number}"
    stated, kind = modalities_of_file(file), channel.kind
    if not kind:
        return (
            "" if set(tokenize(channel.name)) <= set(tokenize(file)) else f"file name does not contain {channel.name}"
        )
    if kind == "MR":
        fits = bool(stated & {"MR", *CONTRASTS})
    elif kind in CONTRASTS:
        fits = stated & set(CONTRASTS) == {kind} or (alone and stated == {"MR"})
    else:
        fits = kind in stated
    if fits or (alone and not stated):
        return ""
    return (
        f"file name says {_format_kinds(stated)}, expected {_format_kinds({kind})}"
        if stated
        else "file name does not tell the channel"
    )


def _find_processing(series: Series) -> str:
    """Return why a series is not an original image, or an empty text."""
    kinds = [value.upper() for value in series.image_type]
    shown_type = "\\".join(map(redact_free_text, kinds[:3]))
    if "LOCALIZER" in kinds:
        return "localizer (ImageType)"
    if kinds[1:2] == ["SECONDARY"]:
        return f"secondary image (ImageType {shown_type})"
    if any(value in ("MPR", "PROJECTION IMAGE", "MIP", "MINIP", "REFORMATTED") for value in kinds[2:]):
        return f"reformatted or projected (ImageType {shown_type})"
    if kinds[:1] == ["DERIVED"]:
        return f"derived image (ImageType {shown_type})"
    if series.modality == "MR" and kinds[2:3] in (["P"], ["PHASE"], ["PHASE MAP"], ["R"], ["I"]):
        return "phase, real or imaginary part, not magnitude (ImageType)"
    words = " ".join(tokenize(series.description))
    for exclusion, pattern in _EXCLUDED_WORDS.items():
        # Siemens abbreviates MPRAGE to "mpr": in original MR images it does not mean reformatted.
        if exclusion == "reformatted" and series.modality == "MR" and kinds[:1] == ["ORIGINAL"]:
            continue
        if re.search(rf"(?<!\S)({pattern})(?!\S)", words):
            return f"{exclusion} (description)"
    return ""


def rank_key(series: Series, channel: Channel) -> tuple[float, ...]:
    """Return the sort key of a series for a channel; the smallest key fits best.

    Its parts are those of :data:`RANK_CRITERIA`, most important first. A contrast agent counts only
    for T1.
    """
    grid = series.known_grid
    agent = channel.kind == "T1" and series.contrast_agent
    field_mm2 = grid.size[0] * grid.spacing_mm[0] * grid.size[1] * grid.spacing_mm[1]
    return agent, -grid.size[2], round(grid.spacing_mm[2], 3), -round(field_mm2), _is_sharp(series)


RANK_CRITERIA = ("no contrast agent", "more slices", "thinner slices", "larger field of view", "softer kernel")
"""Meaning of the parts of :func:`rank_key`."""


def _is_sharp(series: Series) -> bool:
    return any(re.fullmatch(_SHARP_KERNEL, word) for word in re.split(r"[\s\\,;]+", series.kernel.lower()) if word)


def slice_orientation(grid: Grid) -> str:
    """Return ``axial``, ``coronal`` or ``sagittal``, after ``oblique`` beyond about 20 degrees."""
    normal = np.abs(np.array(grid.direction).reshape(3, 3)[:, 2])
    axis = int(normal.argmax())
    return ("" if normal[axis] > 0.94 else "oblique ") + ("sagittal", "coronal", "axial")[axis]


def _format_kinds(kinds: set[str]) -> str:
    return " and ".join("T1 after contrast agent" if kind == "T1CE" else kind for kind in sorted(kinds))
