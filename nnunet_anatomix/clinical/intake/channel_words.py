"""Recognition of modalities and MR contrasts in descriptions, file names and ``channel_names``."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from nnunet_anatomix.clinical.intake.contrast_words import (
    GLUED_AFTER,
    GLUED_BEFORE,
    SUFFIX_ENHANCED,
    SUFFIX_NATIVE,
    agent_in,
    is_agent,
)
from nnunet_anatomix.clinical.intake.image_files import image_ending, image_stem

CONTRASTS = ("T1", "T1CE", "T2", "T2*", "FLAIR", "PD")
"""MR contrasts. T1CE is T1 after contrast agent."""
_PATTERNS = {
    "CT": r"ct|cta|ldct|ncct|cect",
    "MR": r"mr|mri|mrt",
    "PET": r"pet|pt|suv(bw|lbm|bsa|ibw)?|sul",
    "SPECT": r"spect",
    "T1": rf"{GLUED_BEFORE}t1(wi?)?{GLUED_AFTER}({SUFFIX_NATIVE}|{SUFFIX_ENHANCED})?|mprage|bravo|spgr|fspgr|vibe",
    "T2": rf"{GLUED_BEFORE}t2(wi?)?{GLUED_AFTER}",
    "T2*": r"t2\*w?|t2w?\*|t2s|t2star|swi|swan|hemo",
    "FLAIR": r"[es]?(t2)?flair|t2f",
    "PD": rf"{GLUED_BEFORE}pd(wi?)?{GLUED_AFTER}",
}
_MAPPING = r"(t1|t2|t2s|b0)?(maps?|mapping)|molli|shmolli|sasha|relaxometry|t1rho|rho|quantitative"
"""Words of measurements of T1 or T2, which are not weighted images."""
_VERTEBRA = r"(?:[cls]|th?)\s?\d{1,2}"
_VERTEBRAE = re.compile(
    rf"(?<![a-z0-9])(?:{_VERTEBRA}\s?(?:[-–/]|to|bis|thru|through|a|à)\s?{_VERTEBRA}|t[12]_t(?:[3-9]|1[0-2])|"
    rf"(?:level|vertebrae?|body|wirbel|segment)\s{_VERTEBRA}|"
    rf"{_VERTEBRA}\s(?:level|vertebrae?|body|fracture|fraktur|root|nerve|wirbel\w*|burst)(?!\s?th?\d))(?![a-z0-9])"
)
_SEQUENCE_PAIR = re.compile(r"(?:t[12][-–/ ]?){2}")
_LABELS = r"[a-z]*(seg|segmentation|label|labelmap|mask|annotation)s?|rois?|gt"
_NEUTRAL = r"images?|scans?|nii|nifti|nrrd|volumes?|data|series|raw"
_TOKEN = re.compile(r"[A-Za-z0-9*]+")
_SEPARATED = re.compile(r"([_\-. ]?)([A-Za-z0-9*]+)")


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words of letters, digits and ``*``."""
    return [token.lower() for token in _TOKEN.findall(text)]


def modalities_in(text: str) -> set[str]:
    """Return the modalities and MR contrasts that a text names.

    Values are CT, MR, PET, SPECT and :data:`CONTRASTS`; both T1 and T1CE if the text contradicts
    itself on the contrast agent.
    """
    words = tokenize(_strip_vertebrae(text))
    found = {kind for kind, pattern in _PATTERNS.items() if any(re.fullmatch(pattern, word) for word in words)}
    if {"dark", "fluid"} <= set(words) or "darkfluid" in words:
        found.add("FLAIR")
    if "FLAIR" in found:
        if "T1" in found and "T2" not in found:  # GE's name for an inversion-prepared T1
            found.discard("FLAIR")
        found.discard("T2")
    if "T1" in found:
        agent = agent_in(text)
        found = found - {"T1"} | ({"T1CE"} if agent == {True} else {"T1", "T1CE"} if len(agent) > 1 else {"T1"})
    if "T2*" in found:
        found.discard("T2")
    if any(re.fullmatch(_MAPPING, word) for word in words):
        found -= set(CONTRASTS)
    return found


def _strip_vertebrae(text: str) -> str:
    """Remove vertebrae (C7-T1, T1-T12, "level T1"), of which some are spelled like sequences."""

    def replace(match: re.Match[str]) -> str:
        return match[0] if _SEQUENCE_PAIR.fullmatch(match[0]) else " "

    return _VERTEBRAE.sub(replace, text.lower())


def is_label_map(file: str) -> bool:
    """Return whether the name of a file, or of its nnU-Net folder, marks it as a label map."""
    folder = PurePosixPath(file).parent.name
    return any(re.fullmatch(_LABELS, word) for word in tokenize(image_stem(file))) or bool(
        re.fullmatch(r"labels(Tr|Ts|Val)?|gt_segmentations", folder)
    )


def is_in_label_folder(file: str) -> bool:
    """Return whether the folder of a file is called as if it held label maps, such as ``masks``."""
    return bool(re.fullmatch(_LABELS, PurePosixPath(file).parent.name.lower()))


def modalities_of_file(file: str) -> set[str]:
    """Return the modalities that the name of an image file states.

    If it states none, the name of the folder counts, provided that it has no other words
    (``T1/patient.nii``).
    """
    return modalities_in(channel_text_of_file(file))


def channel_text_of_file(file: str) -> str:
    """Return the name of an image file, or that of its folder if only that states a modality."""
    name = image_stem(file)
    return PurePosixPath(file).parent.name if not modalities_in(name) and _folder_is_channel(file) else name


def _folder_is_channel(file: str) -> bool:
    words = tokenize(PurePosixPath(file).parent.name)
    return (
        bool(words)
        and all(_is_channel_word(word) or re.fullmatch(_NEUTRAL, word) for word in words)
        and any(map(_is_modality_word, words))
    )


def _without_channel(match: re.Match[str]) -> str:
    """Return a separator and word of a name without the word for the channel.

    Names of contrast agents go with their separator. Short words stay, which may be initials, and
    "pre" and "post", which may be about an operation.
    """
    separator, word = match[1], match[2].lower()
    return "" if len(word) > 3 and is_agent(word) else separator if _is_modality_word(word) else match[0]


def _is_channel_word(word: str) -> bool:
    return _is_modality_word(word) or bool(agent_in(word))


def _is_modality_word(word: str) -> bool:
    return any(re.fullmatch(pattern, word) for pattern in _PATTERNS.values())


def parse_channel_number(file: str, names: set[str]) -> int | None:
    """Return the channel number in an nnU-Net file name (``case_0001.nii.gz``).

    Args:
        file: Path of the image file.
        names: Paths of all image files.

    Returns:
        None if the name has no such number, or if the folder has no file of channel 0.
    """
    match = re.fullmatch(r"(.+)_(\d{4})", image_stem(file))
    if not match:
        return None
    folder = PurePosixPath(file).parent
    ending = file[len(file) - len(image_ending(file)) :]
    return int(match[2]) if str(folder / f"{match[1]}_0000{ending}") in names else None


def image_case_key(file: str, names: set[str]) -> tuple[str, str]:
    """Return folder and name without the words for the channel: the key of the case."""
    folder, name = str(PurePosixPath(file).parent), image_stem(file)
    if parse_channel_number(file, names) is not None:
        return folder, name[:-5]
    if modalities_in(name):
        return folder, _SEPARATED.sub(_without_channel, name)
    if _folder_is_channel(file):
        return str(PurePosixPath(folder).parent), name
    return folder, name
