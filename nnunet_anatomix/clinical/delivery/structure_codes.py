"""Codes of DICOM for the names that people give structures: SNOMED CT where the name is known, "tissue" where it is not."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

_SIDES = {"left": codes.SCT.Left, "l": codes.SCT.Left, "right": codes.SCT.Right, "r": codes.SCT.Right}
_SYNONYMS = {
    "tumor": "Neoplasm",
    "tumour": "Neoplasm",
    "cancer": "Neoplasm",
    "metastasis": "NeoplasmSecondary",
    "oedema": "Edema",
    "necroticcore": "Necrosis",
    "urinarybladder": "Bladder",
    "thyroidgland": "Thyroid",
    "oesophagus": "Esophagus",
    "smallbowel": "SmallIntestine",
    "postcava": "InferiorVenaCava",
    "ivc": "InferiorVenaCava",
    "csf": "CerebrospinalFluid",
    "wm": "WhiteMatter",
    "gm": "GrayMatter",
    "greymatter": "GrayMatter",
    "clavicula": "Clavicle",
    "caudate": "CaudateNucleus",
    "pallidum": "GlobusPallidus",
    "accumbens": "NucleusAccumbens",
    "fat": "AdiposeTissue",
    "muscle": "MuscleTissue",
    "bone": "BoneTissue",
}
"""Name without blanks → keyword of pydicom's dictionary."""


@dataclass(frozen=True)
class StructureCode:
    """What DICOM wants to know of a segment."""

    category: Code
    """Segmented property category (CID 7150)."""
    type: Code
    """Segmented property type (CID 7151)."""
    side: Code | None = None
    """Left or right, where the type does not say it."""
    region: Code | None = None
    """Where an abnormality lies."""


def structure_code(name: str) -> StructureCode:
    """The code of a structure.

    Args:
        name: As in ``dataset.json``: ``liver``, ``kidney_left``, ``Left Atrium``, ``vertebrae_L1``,
            ``liver tumour``, ...

    Returns:
        Tissue of no further kind for a name that is not in DICOM's lists (CID 7192, 7194 and 7166):
        a wrong code is worse than none.
    """
    words = re.findall(r"[a-z]+[0-9]*|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    sides = [word for word in words if word in _SIDES]
    if found := _exact(words) or _exact(
        [*words[-1:], *words[:-1]]
    ):  # "left atrium" and "atrium left" are structures of their own
        return found
    if len(sides) == 1:
        words = [word for word in words if word not in _SIDES]
    side = _SIDES[sides[0]] if len(sides) == 1 else None
    if found := _exact(words) or _exact([word for word in words if not word.isdigit()]):
        return replace(found, side=side)
    for last in range(len(words) - 1, 0, -1):
        organ, abnormal = _exact(words[:last]), _exact(words[last:])
        if (
            organ
            and abnormal
            and organ.category != codes.SCT.Tissue
            and abnormal.category == codes.SCT.MorphologicallyAbnormalStructure
        ):
            return replace(abnormal, side=side, region=organ.type)
    return StructureCode(codes.SCT.Tissue, codes.SCT.Tissue)


def _exact(words: list[str]) -> StructureCode | None:
    """The code of exactly these words, singular or plural."""
    joined, known = "".join(words), _known()
    for spelled in (joined, re.sub(r"^vertebrae?([ctl][0-9]+)$", r"\1vertebra", joined), joined.removesuffix("s")):
        if found := known.get(spelled):
            return found
    return None


@lru_cache(maxsize=1)
def _known() -> dict[str, StructureCode]:
    known: dict[str, StructureCode] = {}
    for group, category in (
        (codes.cid7192, codes.SCT.AnatomicalStructure),
        (codes.cid7194, codes.SCT.MorphologicallyAbnormalStructure),
        (codes.cid7166, codes.SCT.Tissue),
    ):
        for keyword, code in group.concepts.items():
            known.setdefault(keyword.lower(), StructureCode(category, code))
    for name, keyword in _SYNONYMS.items():
        if found := known.get(keyword.lower()):
            known[name] = found
    for name in ("background", "normal"):  # said of what is no structure
        known.pop(name, None)
    return known
