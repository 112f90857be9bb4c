"""What became of the files that a template bank was built from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pretraining.bank.balance import Region, group_by_region
from pretraining.bank.bank_file import REGIONS, BankIndex
from pretraining.imaging.rejection import Rejected as Rejected
from pretraining.imaging.rejection import RejectionKind as Kind
from pretraining.imaging.rejection import unreadable as unreadable

HEADINGS: dict[Kind, str] = {"empty": "empty masks", "small": "too small", "unusable": "not usable"}
SHOWN: dict[Kind, int] = {"empty": 3, "small": 3, "unusable": 10}
SHOWN_COUNTS = 10


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """Numbers of what is in a bank, and every file and organ that is not."""

    spacing_mm: float
    template_count: int
    subject_count: int
    templates_of_source: dict[str, int]
    regions: tuple[Region, ...]
    """As balanced draws have them."""
    templates_of_licence: dict[str, int]
    """An empty text stands for templates whose source states none."""
    templates_of_organ: dict[str, int]
    rejected: tuple[Rejection, ...]

    @classmethod
    def of(cls, index: BankIndex, rejected: Iterable[Rejection]) -> BuildReport:
        """Count what a bank holds; a reason that several subjects share, a bad ``labels.json`` say, is kept once."""
        entries = list(index.entries())
        return cls(
            spacing_mm=index.spacing_mm,
            template_count=len(entries),
            subject_count=len({(entry.source, entry.subject) for entry in entries}),
            templates_of_source=dict(Counter(entry.source for entry in entries)),
            regions=group_by_region(entries, index.notes.get(REGIONS, {})),
            templates_of_licence=dict(Counter(entry.licence for entry in entries)),
            templates_of_organ=dict(Counter(entry.organ for entry in entries).most_common()),
            rejected=tuple(dict.fromkeys(rejected)),
        )

    def summary(self) -> str:
        """A screenful: long lists are cut and say so."""
        return self._text(SHOWN_COUNTS, SHOWN, with_organs=False)

    def __str__(self) -> str:
        everything = max(len(self.rejected), self.template_count)
        return self._text(everything, dict.fromkeys(HEADINGS, everything), with_organs=True)

    def _region_lines(self) -> list[str]:
        total = sum(region.weight for region in self.regions)
        return [
            f"  {sum(map(len, region.kinds)):6d} in region {region.name}, {len(region.kinds)} kinds, "
            f"{region.weight / total:.0%} of balanced draws"
            for region in self.regions
        ]

    def _text(self, counts: int, lines: dict[Kind, int], *, with_organs: bool) -> str:
        kinds = f"{len(self.templates_of_organ)} kinds of organ"
        text = [f"{self.template_count} templates, {kinds}, of {self.subject_count} subjects at {self.spacing_mm:g} mm"]
        text += _count_lines("from ", self.templates_of_source, counts)
        text += _truncate(self._region_lines(), counts)
        text += _count_lines(
            "licence: ", {name or "not stated": count for name, count in self.templates_of_licence.items()}, counts
        )
        text += _count_lines("organ: ", self.templates_of_organ, counts) if with_organs else []
        for kind, heading in HEADINGS.items():
            of_kind = [f"  {what}: {why}" for what, why, its in self.rejected if its == kind]
            text += [f"{len(of_kind)} {heading}", *_truncate(of_kind, lines[kind])] if of_kind else []
        return "\n".join(text)


def _count_lines(what: str, counts: dict[str, int], limit: int) -> list[str]:
    return _truncate([f"  {count:6d} {what}{name}" for name, count in counts.items()], limit)


def _truncate(lines: Sequence[str], limit: int) -> list[str]:
    return [*lines[:limit], f"  ... and {len(lines) - limit} more"] if len(lines) > limit else list(lines)


class Rejection(NamedTuple):
    """One line of the report."""

    what: str
    """File, or subject and organ."""
    why: str
    kind: Kind = "unusable"


def too_small(what: str, count: int, spacing_mm: float, min_voxels: int) -> Rejection:
    """A mask of which resampling left too little."""
    return Rejection(what, f"{count} voxels at {spacing_mm:g} mm, fewer than {min_voxels}", "small")
