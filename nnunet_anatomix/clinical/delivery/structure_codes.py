"""DICOM codes of structures by name: SNOMED CT for known names, "tissue" for others."""

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
"""Name without spaces → keyword of pydicom's dictionary."""


@dataclass(frozen=True)
class StructureCode:
    """Codes that describe a segment in DICOM SEG."""

    category: Code
    """Segmented property category (CID 7150)."""
    type: Code
    """Segmented property type (CID 7151)."""
    side: Code | None = None
    """Laterality, if the type does not include it."""
    region: Code | None = None
    """Anatomic region of an abnormality."""


def structure_code(name: str) -> StructureCode:
    """Return the codes of a structure.

    Args:
        name: Name in ``dataset.json``: ``liver``, ``kidney_left``, ``Left Atrium``,
            ``vertebrae_L1``, ``liver tumour``, ...

    Returns:
        Codes of DICOM's lists (CID 7192, 7194 and 7166). A name that is not in them gets the
            unspecific code "tissue", since a wrong code is worse than none.
    """
    words = re.findall(r"[a-z]+[0-9]*|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    sides = [word for word in words if word in _SIDES]
    # First with the side: "left atrium" and "atrium left" are structures with their own code.
    if found := _look_up(words) or _look_up([*words[-1:], *words[:-1]]):
        return found
    if len(sides) == 1:
        words = [word for word in words if word not in _SIDES]
    side = _SIDES[sides[0]] if len(sides) == 1 else None
    if found := _look_up(words) or _look_up([word for word in words if not word.isdigit()]):
        return replace(found, side=side)
    for last in range(len(words) - 1, 0, -1):
        organ, abnormal = _look_up(words[:last]), _look_up(words[last:])
        if (
            organ
            and abnormal
            and organ.category != codes.SCT.Tissue
            and abnormal.category == codes.SCT.MorphologicallyAbnormalStructure
        ):
            return replace(abnormal, side=side, region=organ.type)
    return StructureCode(codes.SCT.Tissue, codes.SCT.Tissue)


def _look_up(words: list[str]) -> StructureCode | None:
    """Return the code of exactly these words, singular or plural."""
    joined, known = "".join(words), _load_codes()
    for spelling in (joined, re.sub(r"^vertebrae?([ctl][0-9]+)$", r"\1vertebra", joined), joined.removesuffix("s")):
        if found := known.get(spelling):
            return found
    return None


@lru_cache(maxsize=1)
def _load_codes() -> dict[str, StructureCode]:
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
    for name in ("background", "normal"):  # codes that are not structures
        known.pop(name, None)
    return known
