"""Balanced draws from a template bank: a region of the body, then a kind of organ, then a template.

Uniform draws follow the composition of the bank: with 50 label maps of heads and two of bodies, 96
% of the templates show heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Generator

from pretraining.bank.bank_index import TemplateEntry
from pretraining.common.random import integer, weighted_choice

FULL_WEIGHT_KINDS = 20
"""Number of kinds of organ that gives a region, or a vocabulary in it, its full share; equal to the
default minimum of templates per sample. Fewer kinds give proportionally less, so that a source with
nothing but livers does not fill half of all samples.
"""
SAME_REGION_OVERLAP = 0.5
"""Least overlap of two sources that show the same region: common kinds as a share of the shorter of
their two lists of kinds.
"""

_NUMBERED = re.compile(r"label_\d+")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORDS = re.compile(r"[^\W\d_]+")
_SIDES = frozenset(("left", "right", "lt", "rt", "l", "r", "lh", "rh"))


Kind = tuple[int, ...]
"""Indices of all templates of one kind of organ, ascending."""
_Kinds = dict[tuple[str, str], list[int]]
"""Map from (vocabulary, kind) to templates. The vocabulary of named organs is empty, that of
numbered labels is the name of their source.
"""


class Region(NamedTuple):
    """Templates that show one part of the body."""

    name: str
    """Name as declared, or the folder of the first source."""
    vocabularies: tuple[tuple[Kind, ...], ...]
    """Kinds of organ by vocabulary: one vocabulary for named organs, and one for each source of
    numbered labels.
    """

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of organ of the region, of all vocabularies."""
        return tuple(kind for vocabulary in self.vocabularies for kind in vocabulary)

    @property
    def weight(self) -> int:
        """Share of the draws, relative to those of the other regions; in [1, FULL_WEIGHT_KINDS]."""
        return _weight(self.kinds)


def organ_kind(organ: str) -> str:
    """Normalize an organ's name: lower case, words joined by spaces, without side and number.

    Args:
        organ: A template's organ, for example ``lung_upper_lobe_left`` or ``Parotid-Lt``.

    Returns:
        The kind, for example ``lung upper lobe`` or ``parotid``. Names that would become empty, and
        ``label_N`` for a label without a name, are returned unchanged.
    """
    if _NUMBERED.fullmatch(organ):
        return organ
    words = [word.lower() for word in _WORDS.findall(_CAPITAL.sub(" ", organ))]
    return " ".join(word for word in words if word not in _SIDES) or organ


def group_by_region(entries: Iterable[TemplateEntry], declared: Mapping[str, str]) -> tuple[Region, ...]:
    """Group templates by region of the body and kind of organ.

    Args:
        entries: All templates of a bank, in order.
        declared: Map from source to region, for sources with a declared region.

    Returns:
        The regions in the order of their first template; at least one if there is a template.

    Notes:
        Sources without a declared region are grouped by the first folder in which their paths
        differ. Groups that share most of their named kinds, for example two parts of
        TotalSegmentator, are then merged. Labels without a name are separate kinds for each source,
        since the meaning of a number differs between sources.
    """
    kinds_of_source: dict[str, dict[str, list[int]]] = {}
    for i, entry in enumerate(entries):
        kinds_of_source.setdefault(entry.source, {}).setdefault(organ_kind(entry.organ), []).append(i)
    folder_of = _distinguishing_folders([source for source in kinds_of_source if not declared.get(source)])
    by_declaration: dict[str, _Kinds] = {}
    by_folder: dict[str, _Kinds] = {}
    for source, kinds in kinds_of_source.items():
        name = declared.get(source)
        members = by_declaration.setdefault(name, {}) if name else by_folder.setdefault(folder_of[source], {})
        for kind, templates in kinds.items():
            members.setdefault((source if _NUMBERED.fullmatch(kind) else "", kind), []).extend(templates)
    named_kinds = [*by_declaration.items(), *_merge_similar(by_folder)]
    regions = [Region(name, _vocabularies(kinds)) for name, kinds in named_kinds]
    return tuple(sorted(regions, key=lambda region: min(kind[0] for kind in region.kinds)))


def draw_balanced(regions: Sequence[Region], count: int, generator: Generator) -> tuple[int, ...]:
    """Draw templates independently of each other, with replacement.

    Args:
        regions: Regions from :func:`group_by_region`.
        count: Number of draws.
        generator: Sole source of randomness.

    Returns:
        Indices into the bank.

    Notes:
        Each draw chooses a region in proportion to its weight, then one of its vocabularies in
        proportion to theirs, so that a single atlas of 300 parts does not dominate the region; then
        a kind and a template of it, uniformly.
    """
    weights = [region.weight for region in regions]
    drawn = []
    for _ in range(count):
        vocabularies = regions[weighted_choice(weights, generator)].vocabularies
        kinds = vocabularies[weighted_choice([_weight(kinds) for kinds in vocabularies], generator)]
        templates = kinds[integer(0, len(kinds) - 1, generator)]
        drawn.append(templates[integer(0, len(templates) - 1, generator)])
    return tuple(drawn)


def _weight(kinds: Sequence[Kind]) -> int:
    return min(len(kinds), FULL_WEIGHT_KINDS)


def _vocabularies(kinds: _Kinds) -> tuple[tuple[Kind, ...], ...]:
    """Group kinds by vocabulary."""
    kinds_of: dict[str, list[Kind]] = {}
    for (vocabulary, _), templates in kinds.items():
        kinds_of.setdefault(vocabulary, []).append(tuple(sorted(templates)))
    return tuple(map(tuple, kinds_of.values()))


def _distinguishing_folders(sources: Sequence[str]) -> dict[str, str]:
    """Return the path of each source down to the first folder that not all sources share."""
    paths = [source.split("/") for source in sources]
    depth = 0
    while len({tuple(path[: depth + 1]) for path in paths}) == 1 and any(len(path) > depth + 1 for path in paths):
        depth += 1
    return {source: "/".join(path[: depth + 1]) for source, path in zip(sources, paths, strict=True)}


def _merge_similar(regions: Mapping[str, _Kinds]) -> list[tuple[str, _Kinds]]:
    """Merge each region into the first earlier one, if any, that shares its named kinds."""
    groups: list[tuple[str, _Kinds]] = []
    names_of: list[set[str]] = []
    for region, kinds in regions.items():
        names = {kind for source, kind in kinds if not source}
        same = (
            i
            for i, known in enumerate(names_of)
            if len(names & known) >= SAME_REGION_OVERLAP * min(len(names), len(known)) > 0
        )
        match = next(same, None)
        if match is None:
            groups.append((region, {kind: list(templates) for kind, templates in kinds.items()}))
            names_of.append(names)
            continue
        for kind, templates in kinds.items():
            groups[match][1].setdefault(kind, []).extend(templates)
        names_of[match] |= names
    return groups
