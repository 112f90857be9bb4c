"""Report on a template bank: its content, and all files and organs that are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pretraining.bank.balance import Region, group_by_region
from pretraining.bank.bank_index import REGIONS, BankIndex
from pretraining.imaging.rejection import Rejected as Rejected
from pretraining.imaging.rejection import RejectionKind as Kind
from pretraining.imaging.rejection import unreadable as unreadable

HEADINGS: dict[Kind, str] = {"empty": "empty masks", "small": "too small", "unusable": "not usable"}
"""Heading of each kind of rejection."""
SHOWN: dict[Kind, int] = {"empty": 3, "small": 3, "unusable": 10}
"""Maximum number of rejections of each kind in the summary."""
SHOWN_COUNTS = 10
"""Maximum number of sources, regions and licences in the summary."""


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """Counts of a bank's templates, and every file and organ that is not used."""

    spacing_mm: float
    """Voxel size of all masks, mm."""
    template_count: int
    """Number of templates."""
    subject_count: int
    """Number of subjects."""
    templates_of_source: dict[str, int]
    """Number of templates of each source."""
    regions: tuple[Region, ...]
    """Regions of the body, for balanced draws."""
    templates_of_licence: dict[str, int]
    """Number of templates of each licence; the key is empty where the source states none."""
    templates_of_organ: dict[str, int]
    """Number of templates of each organ, in descending order."""
    rejected: tuple[Rejection, ...]
    """Files and organs that are not used."""

    @classmethod
    def of(cls, index: BankIndex, rejected: Iterable[Rejection]) -> BuildReport:
        """Count the templates of a bank.

        Args:
            index: Index of the bank.
            rejected: Files and organs that are not used. A rejection that several subjects share,
                for example of an invalid ``labels.json``, is listed once.
        """
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
        """Return the report with truncated lists, about a screen long."""
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
            of_kind = [f"  {line.what}: {line.why}" for line in self.rejected if line.kind == kind]
            text += [f"{len(of_kind)} {heading}", *_truncate(of_kind, lines[kind])] if of_kind else []
        return "\n".join(text)


def _count_lines(what: str, counts: dict[str, int], limit: int) -> list[str]:
    return _truncate([f"  {count:6d} {what}{name}" for name, count in counts.items()], limit)


def _truncate(lines: Sequence[str], limit: int) -> list[str]:
    return [*lines[:limit], f"  ... and {len(lines) - limit} more"] if len(lines) > limit else list(lines)


class Rejection(NamedTuple):
    """File or organ that is not used; one line of the report."""

    what: str
    """File, or subject and organ."""
    why: str
    """Reason in words."""
    kind: Kind = "unusable"
    """Kind of reason, which selects the heading."""


def too_small(what: str, count: int, spacing_mm: float, min_voxels: int) -> Rejection:
    """Make the rejection of a mask that has too few voxels after resampling.

    Args:
        what: Subject and organ.
        count: Number of voxels of the mask.
        spacing_mm: Voxel size after resampling, mm.
        min_voxels: Least number of voxels.
    """
    return Rejection(what, f"{count} voxels at {spacing_mm:g} mm, fewer than {min_voxels}", "small")
