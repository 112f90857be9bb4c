"""Rules that decide which series fit a channel, and how well.

They use modality, description, image type, size, orientation and kernel.
"""

from __future__ import annotations

import re

import numpy as np

from nnunet_anatomix.clinical.dicom.pet import PetFacts, suv_factor
from nnunet_anatomix.clinical.intake.channel_words import (
    CONTRASTS,
    is_label_map,
    modalities_in,
    modalities_of_file,
    parse_channel_number,
    tokenize,
)
from nnunet_anatomix.clinical.intake.image_files import image_stem
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.originality import find_change, is_changed_ct, shown_image_type
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.volume_choice import TOO_FEW, asks_for_dixon, volume_words
from nnunet_anatomix.clinical.phrases import redact_free_text
from pretraining.imaging.grids import Grid
from pretraining.imaging.rejection import Unusable

MIN_EXTENT = 1 / 3
"""Extent below which a series is only a part of the scan, fraction of the longest one."""
_DERIVED = "derived image"
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
    "derived map": r"derived|adc|eadc|trace|tracew|fa|colfa|cbf|cbv|rcbf|rcbv|mtt|ttp|tmax|maps?|mapping|"
    r"([tb][0-2]|field)map|molli|shmolli|sasha",
    "phase, real or imaginary part": r"phase (image|map)s?|(real|imaginary) (part|image)s?|pha|imaginary|velocity",
    "not attenuation-corrected": r"nac|(no|non|not|without|wo|un) ?(ac|corr|corrected)",
}
_EXCLUDED_NAMES = {
    "localizer": r"locali[sz]er|scout|topogram",
    "derived map": r"e?adc|(t1|t2|t2star|b0|b1|field)(map|mapping)|maps?|molli",
    "phase, real or imaginary part": r"part (phase|real|imag)|phasediff|phase[12]|(ph|real|imaginary)(?=$)",
    "projection (MIP or rendering)": r"mip|minip",
}
"""Words of file names; those of descriptions would exclude, for example, the subjects of BIDS."""
_MODALITY = {"CT": "CT", "PET": "PT", "SPECT": "NM"}
_SHARP_KERNEL = r"lung|bone|bone\+|boneplus|edge|detail|[a-z]{1,2}[5-9]\d[a-z]{0,2}|ya|yb|yc|yd|d|l|fc[358]\d|.*sharp.*"
_SIEMENS_KERNEL = r"[bhij][a-z]?[5-9]\d[a-z]?"
"""Sharp kernels of Siemens in descriptions of CT whose kernel tag is missing."""
_ACTIVITY = ("", "BQML", "CNTS", "GML", "CPS", "PROPCNTS", "PROPCPS")
"""Units of PET images that are not parametric maps."""
_ATTENUATION_CORRECTED = r"ac|ctac|mrac|acct|attn|corrected"


def find_mismatch(series: Series, channel: Channel, *, alone: bool, names: set[str]) -> str:
    """Return why a series does not fit a channel, or an empty text if it fits.

    Args:
        series: Series without a problem.
        channel: Channel of the model.
        alone: True if the model has one channel; an image file whose name states no modality then
            fits.
        names: Paths of all image files.
    """
    # Scanners compute Dixon images, and mark most of them as derived.
    is_dixon = series.modality == "MR" and asks_for_dixon(series, channel.name)
    if (reason := find_exclusion(series, channel.kind)) and not (is_dixon and reason.startswith(_DERIVED)):
        return reason
    if channel.originals_only and (reason := find_change(series)):
        return reason
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
    if kind in CONTRASTS:
        contrasts = modalities_in(series.description) & set(CONTRASTS)
        fitting = {"T1", "T1CE"} if kind in ("T1", "T1CE") else {kind}
        if not contrasts:
            return f"description does not say {_format_kinds({kind})}"
        if not contrasts <= fitting:
            return f"description says {_format_kinds(contrasts)}, expected {_format_kinds({kind})}"
        return _find_agent_mismatch(series, kind)
    return find_suv_problem(series, channel)


def find_exclusion(series: Series, kind: str = "") -> str:
    """Return why a series is not an original image of its modality, or an empty text.

    Args:
        series: Series without a problem.
        kind: Kind of the channel. Channels without one may ask for derived images by their name,
            so that only size and values count.
    """
    if (slices := series.known_grid.size[2]) < MIN_SLICES:
        return f"{TOO_FEW}{slices} slices"
    if series.kind == "image":
        return _find_image_exclusion(series.files[0], series.has_label_values, kind)
    if not kind:
        return ""
    if reason := _find_processing(series):
        return reason
    if series.modality == "CT":
        if slice_orientation(series.known_grid) not in ("axial", "oblique axial"):
            return f"reformatted ({slice_orientation(series.known_grid)}; CT is acquired in axial slices)"
        if series.rescale_type.upper() not in ("", "HU", "US"):
            return f"values are {redact_free_text(series.rescale_type.upper())}, not Hounsfield units"
    if series.modality == "PT" and series.content.unit not in _ACTIVITY:
        return f"values are {redact_free_text(series.content.unit)}, not activity"
    if series.modality == "PT" and series.content.is_attenuation_corrected is False:
        return "not attenuation-corrected (CorrectedImage)"
    return ""


def find_doubt(series: Series, channel: Channel, *, names: set[str]) -> str:
    """Return why a series that fits is not taken unless ``--map`` names it, or an empty text.

    Args:
        series: Series for which :func:`find_mismatch` found nothing.
        channel: Channel of the model.
        names: Paths of all image files.
    """
    state, content = series.agent.state, series.content
    if series.kind == "image":
        file = series.files[0]
        stated = modalities_of_file(file)
        if not stated or parse_channel_number(file, names) is not None:  # the folder says what it holds
            return ""
        if channel.wants_suv and "suv" not in image_stem(file).lower():
            return "file name does not tell whether its values are SUV"
        if not stated & {"T1", "T1CE"}:
            return ""
    if channel.kind in ("T1", "T1CE"):
        if state == "unclear":
            return series.agent.reason
        if state == "unmarked" and channel.kind == "T1CE":
            return "nothing tells whether it is after contrast agent"
    if (
        channel.kind == "PET"
        and series.modality == "PT"
        and content.is_attenuation_corrected is None
        and not any(re.fullmatch(_ATTENUATION_CORRECTED, word) for word in tokenize(series.description))
    ):
        return "no tag tells whether it is attenuation-corrected"
    return ""


def find_suv_problem(series: Series, channel: Channel) -> str:
    """Return why a channel's SUV cannot be computed from a series, or an empty text."""
    if series.kind != "dicom" or series.modality != "PT":
        return ""
    if channel.wants_other_suv:
        return f"no SUV except by body weight; --map {channel.number}=unit:suv takes that"
    if channel.wants_suv:
        try:
            suv_factor(series.pet or PetFacts(), series.content)
        except Unusable as reason:
            return str(reason)
    return ""


def _find_agent_mismatch(series: Series, kind: str) -> str:
    if kind == "T1" and series.agent.state == "enhanced":
        return "T1 after contrast agent, expected T1"
    if kind == "T1CE" and series.agent.state == "native":
        return "T1 without contrast agent, expected T1 after contrast agent"
    return ""


def _find_image_exclusion(file: str, has_label_values: bool, kind: str) -> str:
    if is_label_map(file):
        return "label map (file name)"
    if has_label_values:
        return "mask or label map (values)"
    words = " ".join(tokenize(image_stem(file)))
    for exclusion, pattern in _EXCLUDED_NAMES.items() if kind else ():
        if re.search(rf"(?<!\S)({pattern})(?!\S)", words):
            return f"{exclusion} (file name)"
    return ""


def _find_image_mismatch(series: Series, channel: Channel, alone: bool, names: set[str]) -> str:
    file = series.files[0]
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
    elif kind in ("T1", "T1CE") and "T1" in stated | ({"T1"} if "T1CE" in stated else set()):
        return _find_agent_mismatch(series, kind) if stated & set(CONTRASTS) <= {"T1", "T1CE"} else _says(stated, kind)
    elif kind in CONTRASTS:
        fits = stated & set(CONTRASTS) == {kind} or (alone and stated == {"MR"})
    else:
        fits = kind in stated
    if fits or (alone and not stated):
        return ""
    return _says(stated, kind) if stated else "file name does not tell the channel"


def _says(stated: set[str], kind: str) -> str:
    return f"file name says {_format_kinds(stated)}, expected {_format_kinds({kind})}"


def _find_processing(series: Series) -> str:
    """Return why a series is not an original image, or an empty text."""
    kinds = [value.upper() for value in series.image_type]
    shown_type, changed = shown_image_type(series), is_changed_ct(series)
    if "LOCALIZER" in kinds:
        return "localizer (ImageType)"
    if kinds[1:2] == ["SECONDARY"] and not changed:
        return f"secondary image (ImageType {shown_type})"
    if any(value in ("MPR", "PROJECTION IMAGE", "MIP", "MINIP", "REFORMATTED") for value in kinds[2:]):
        return f"reformatted or projected (ImageType {shown_type})"
    if kinds[:1] == ["DERIVED"] and not changed:
        return f"{_DERIVED} (ImageType {shown_type})"
    if series.content.part:
        return f"not magnitude: {series.content.part}"
    words = " ".join(tokenize(series.description))
    for exclusion, pattern in _EXCLUDED_WORDS.items():
        # Siemens abbreviates MPRAGE to "mpr": in original MR images it does not mean reformatted.
        if exclusion == "reformatted" and series.modality == "MR" and kinds[:1] == ["ORIGINAL"]:
            continue
        if exclusion == "not attenuation-corrected" and series.modality not in ("PT", "NM"):
            continue
        if re.search(rf"(?<!\S)({pattern})(?!\S)", words):
            return f"{exclusion} (description)"
    return ""


def rank_key(series: Series, longest_mm: float) -> tuple[float, ...]:
    """Return the sort key of a series for a channel; the smallest key fits best.

    Its parts are those of :data:`RANK_CRITERIA`, most important first.

    Args:
        series: Series without a problem.
        longest_mm: Extent of the longest series of the choice across its slices.
    """
    grid = series.known_grid
    is_part = extent_mm(series) < MIN_EXTENT * longest_mm
    sharp = series.modality == "CT" and _is_sharp(series)
    field_mm2 = grid.size[0] * grid.spacing_mm[0] * grid.size[1] * grid.spacing_mm[1]
    return is_part, is_changed_ct(series), sharp, -grid.size[2], round(grid.spacing_mm[2], 3), -round(field_mm2)


RANK_CRITERIA = (
    "longer scan",
    "original image",
    "softer kernel",
    "more slices",
    "thinner slices",
    "larger field of view",
)
"""Meaning of the parts of :func:`rank_key`."""


def extent_mm(series: Series) -> float:
    """Return the extent of a series without a problem across its slices."""
    return series.known_grid.size[2] * series.known_grid.spacing_mm[2]


def _is_sharp(series: Series) -> bool:
    if not series.kernel:
        return any(re.fullmatch(_SIEMENS_KERNEL, word) for word in tokenize(series.description))
    return any(re.fullmatch(_SHARP_KERNEL, word) for word in re.split(r"[\s\\,;]+", series.kernel.lower()) if word)


def slice_orientation(grid: Grid) -> str:
    """Return ``axial``, ``coronal`` or ``sagittal``, after ``oblique`` beyond about 20 degrees."""
    normal = np.abs(np.array(grid.direction).reshape(3, 3)[:, 2])
    axis = int(normal.argmax())
    return ("" if normal[axis] > 0.94 else "oblique ") + ("sagittal", "coronal", "axial")[axis]


def _format_kinds(kinds: set[str]) -> str:
    return " and ".join("T1 after contrast agent" if kind == "T1CE" else kind for kind in sorted(kinds))
