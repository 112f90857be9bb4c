"""Words for what a scan shows, in descriptions, file names and ``channel_names``."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from nnunet_anatomix.clinical.intake.image_files import image_ending, stem

CONTRASTS = ("T1", "T1CE", "T2", "T2*", "FLAIR", "PD")
"""Of MR. T1CE is T1 after contrast agent."""
_SEQUENCE = "(tse|fse|tfe|ffe|se|gre)?"
_PATTERNS = {
    "CT": r"ct|cta|ldct|ncct|cect",
    "MR": r"mr|mri|mrt",
    "PET": r"pet|pt",
    "SPECT": r"spect",
    "T1": rf"[es]?t1(w|wi|n)?{_SEQUENCE}|mprage|bravo|spgr|fspgr|vibe",
    "T1CE": r"t1(w)?(ce|c|gd|km|post)",
    "T2": rf"[es]?t2(w|wi)?{_SEQUENCE}",
    "T2*": r"t2\*w?|t2w?\*|t2s|t2star|swi|swan|hemo",
    "FLAIR": r"[es]?(t2)?flair",
    "PD": rf"pd(w|wi)?{_SEQUENCE}",
}
_CONTRAST_AGENT = r"gd|gad|ce|km|post|postgd|contrast|contrasted|gadovist|dotarem|enhanced"
_LABELS = r"[a-z]*(seg|segmentation|label|labelmap|mask|annotation)s?|rois?|gt"
_NEUTRAL = r"images?|scans?|nii|nifti|nrrd|volumes?|data|series|raw"
_TOKEN = re.compile(r"[A-Za-z0-9*]+")


def tokens(text: str) -> list[str]:
    return [token.lower() for token in _TOKEN.findall(text)]


def modalities_in(text: str) -> set[str]:
    """Modalities and MR contrasts that a text has words for: some of CT, MR, PET, SPECT and :data:`CONTRASTS`."""
    words = tokens(text)
    found = {kind for kind, pattern in _PATTERNS.items() if any(re.fullmatch(pattern, word) for word in words)}
    if {"dark", "fluid"} <= set(words) or "darkfluid" in words:
        found.add("FLAIR")
    if "FLAIR" in found:
        if "T1" in found and "T2" not in found:  # an inversion-prepared T1 of GE's
            found.discard("FLAIR")
        found.discard("T2")
    if "T1" in found and (
        any(re.fullmatch(_CONTRAST_AGENT, word) for word in words) or re.search(r"\+\s?c\b|\bc\+", text.lower())
    ):
        found = found - {"T1"} | {"T1CE"}
    if "T1CE" in found:
        found.discard("T1")
    if "T2*" in found:
        found.discard("T2")
    return found


def is_label_map(file: str) -> bool:
    """Whether a file's name, or a folder of nnU-Net's, says that it holds labels."""
    folder = PurePosixPath(file).parent.name
    return any(re.fullmatch(_LABELS, word) for word in tokens(stem(file))) or bool(
        re.fullmatch(r"labels(Tr|Ts)?|gt_segmentations", folder)
    )


def modalities_of_file(file: str) -> set[str]:
    """What the name of an image file says; if it says nothing, what its folder says if that is all the folder says (``T1/patient.nii``)."""
    return modalities_in(stem(file)) or (
        modalities_in(PurePosixPath(file).parent.name) if _folder_is_channel(file) else set()
    )


def _folder_is_channel(file: str) -> bool:
    words = tokens(PurePosixPath(file).parent.name)
    return (
        bool(words)
        and all(_is_word(word) or re.fullmatch(_NEUTRAL, word) for word in words)
        and any(map(_is_word, words))
    )


def _is_word(word: str) -> bool:
    return any(re.fullmatch(pattern, word) for pattern in _PATTERNS.values())


def channel_number(file: str, names: set[str]) -> int | None:
    """The channel that a name in nnU-Net's style tells (``case_0001.nii.gz``), if a file for channel 0 lies beside it.

    Args:
        names: Of all image files.
    """
    match = re.fullmatch(r"(.+)_(\d{4})", stem(file))
    if not match:
        return None
    folder = PurePosixPath(file).parent
    ending = file[len(file) - len(image_ending(file)) :]
    return int(match[2]) if str(folder / f"{match[1]}_0000{ending}") in names else None


def case_of_image(file: str, names: set[str]) -> tuple[str, str]:
    """Folder and name less the words for the channel: equal for the channels of one case."""
    folder, name = str(PurePosixPath(file).parent), stem(file)
    if channel_number(file, names) is not None:
        return folder, name[:-5]
    if modalities_in(name):
        return folder, _TOKEN.sub(lambda match: "" if _is_word(match[0].lower()) else match[0], name)
    if _folder_is_channel(file):
        return str(PurePosixPath(folder).parent), name
    return folder, name
