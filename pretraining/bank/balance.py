"""Balanced draws from a template bank: first a region of the body, then a kind of organ, then a template of it.

Uniform draws show what the bank has most of: with 50 label maps of heads and two of bodies, 96 % of
the templates are heads'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Generator

from pretraining.bank.bank_file import TemplateEntry
from pretraining.common.random import integer, weighted_choice

FULL_WEIGHT_KINDS = 20
"""Kinds of organ at which a region, or a vocabulary in it, gets its full share: the fewest
templates of a sample by default. One with fewer kinds gets proportionally less, so that a source of
livers alone does not fill half of all samples.
"""
SAME_REGION_OVERLAP = 0.5
"""Sources that share at least this part of the shorter of their two lists of kinds show the same
region.
"""

_NUMBERED = re.compile(r"label_\d+")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORDS = re.compile(r"[^\W\d_]+")
_SIDES = frozenset(("left", "right", "lt", "rt", "l", "r", "lh", "rh"))


Kind = tuple[int, ...]
"""Indices of all templates of one kind of organ, ascending."""
_Kinds = dict[tuple[str, str], list[int]]
"""(Vocabulary, kind) to templates; a numbered source's name is its vocabulary, that of organs with
names is empty.
"""


class Region(NamedTuple):
    """Templates that show one part of the body."""

    name: str
    vocabularies: tuple[tuple[Kind, ...], ...]
    """Kinds of organ, by what gives them their names: one for organs with names, and one for each
    source of numbered labels.
    """

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """All kinds of organ of the region."""
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
        The kind, for example ``lung upper lobe`` or ``parotid``. A name of which nothing would be
        left, and ``label_N``, which stands for a label without a name, are returned as they are.
    """
    if _NUMBERED.fullmatch(organ):
        return organ
    words = [word.lower() for word in _WORDS.findall(_CAPITAL.sub(" ", organ))]
    return " ".join(word for word in words if word not in _SIDES) or organ


def group_by_region(entries: Iterable[TemplateEntry], declared: Mapping[str, str]) -> tuple[Region, ...]:
    """Sort templates by region and kind of organ.

    Args:
        entries: All templates of a bank, in order.
        declared: Source to region, as far as the bank's maker stated it.

    Returns:
        The regions in the order of their first template, at least one for a bank that holds any
        template.

    Notes:
        A source without a stated region goes by the first folder in which the sources differ. Those
        that share most of their named kinds, for example two parts of TotalSegmentator, are then
        joined. Labels without a name are kinds of their source alone, since a number means
        something else in every source.
    """
    kinds_of_source: dict[str, dict[str, list[int]]] = {}
    for i, entry in enumerate(entries):
        kinds_of_source.setdefault(entry.source, {}).setdefault(organ_kind(entry.organ), []).append(i)
    folder_of = _distinguishing_folders([source for source in kinds_of_source if not declared.get(source)])
    stated: dict[str, _Kinds] = {}
    by_folder: dict[str, _Kinds] = {}
    for source, kinds in kinds_of_source.items():
        name = declared.get(source)
        members = stated.setdefault(name, {}) if name else by_folder.setdefault(folder_of[source], {})
        for kind, templates in kinds.items():
            members.setdefault((source if _NUMBERED.fullmatch(kind) else "", kind), []).extend(templates)
    regions = [*stated.items(), *_merge_similar(by_folder)]
    found = [Region(name, _vocabularies(kinds)) for name, kinds in regions]
    return tuple(sorted(found, key=lambda region: min(kind[0] for kind in region.kinds)))


def draw_balanced(regions: Sequence[Region], count: int, generator: Generator) -> tuple[int, ...]:
    """Draw templates independently of each other, with replacement.

    Args:
        regions: From :func:`group_by_region`.
        count: Number of draws.
        generator: Sole source of randomness.

    Returns:
        Indices into the bank. A region is drawn in proportion to its weight, then one of its
        vocabularies likewise, so that a single atlas of 300 parts does not stand for the region;
        then a kind and a template of it, uniformly.
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
    found: dict[str, list[Kind]] = {}
    for (vocabulary, _), templates in kinds.items():
        found.setdefault(vocabulary, []).append(tuple(sorted(templates)))
    return tuple(map(tuple, found.values()))


def _distinguishing_folders(sources: Sequence[str]) -> dict[str, str]:
    """For each source, its path down to the first folder that not all sources share."""
    paths = [source.split("/") for source in sources]
    depth = 0
    while len({tuple(path[: depth + 1]) for path in paths}) == 1 and any(len(path) > depth + 1 for path in paths):
        depth += 1
    return {source: "/".join(path[: depth + 1]) for source, path in zip(sources, paths, strict=True)}


def _merge_similar(regions: Mapping[str, _Kinds]) -> list[tuple[str, _Kinds]]:
    """Join what shares its named kinds with an earlier region; the earlier one's name stays."""
    groups: list[tuple[str, _Kinds]] = []
    names_of: list[set[str]] = []
    for region, kinds in regions.items():
        names = {kind for source, kind in kinds if not source}
        same = (
            i
            for i, known in enumerate(names_of)
            if len(names & known) >= SAME_REGION_OVERLAP * min(len(names), len(known)) > 0
        )
        place = next(same, None)
        if place is None:
            groups.append((region, {kind: list(templates) for kind, templates in kinds.items()}))
            names_of.append(names)
            continue
        for kind, templates in kinds.items():
            groups[place][1].setdefault(kind, []).extend(templates)
        names_of[place] |= names
    return groups
