"""What a downloaded dataset must hold: files found by their names, counted, and shared out as in Table 8."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SourceCase:
    """One labelled scan of a download."""

    name: str
    """In the prepared dataset."""
    image: Path
    label: Path
    mask: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The cases of a dataset, by what they are for."""

    training: list[SourceCase]
    validation: list[SourceCase]
    test: list[SourceCase]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Volumes of each part (Table 8)."""

    training: int
    """Of full supervision; the few that are fine-tuned on are among them."""
    validation: int
    test: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return self.training + self.validation + self.test

    def of(self, found: int) -> Counts:
        """Shares for another number of cases, in the same proportions, at least one a part."""
        validation, test = (max(1, round(found * part / self.total)) for part in (self.validation, self.test))
        if (training := found - validation - test) < 1:
            raise InputError(f"expected at least 3 labelled scans to share out, found {found}")
        return Counts(training=training, validation=validation, test=test)


def require_folder(source: Path, *parts: str, title: str) -> Path:
    """``source`` with ``parts`` below it.

    Raises:
        InputError: If that is no folder; the message says what is there instead.
    """
    folder = source.joinpath(*parts)
    if not folder.is_dir():
        there = (
            sorted(path.name for path in source.iterdir() if not path.name.startswith("."))[:8]
            if source.is_dir()
            else "no folder"
        )
        wanted = "/".join(parts) or "with the download"
        raise InputError(
            f"{title}: expected a folder {wanted} in {source}, found {there}; docs/reproduce.md shows the layout"
        )
    return folder


def files_by_case(folder: Path, pattern: str) -> dict[str, Path]:
    """Case → file, for files below ``folder`` whose path matches; hidden ones, which some archives bring, are left out.

    Args:
        pattern: Of the path relative to ``folder``, with ``/`` between folders and a group
            ``case``.
    """
    expression = re.compile(pattern)
    found = {}
    for path in sorted(folder.rglob("*.*")):
        if (
            not path.name.startswith(".")
            and path.is_file()
            and (match := expression.fullmatch(path.relative_to(folder).as_posix()))
        ):
            found[match["case"]] = path
    return found


def labelled_cases(
    images: Mapping[str, Path], labels: Mapping[str, Path], *, title: str, prefix: str = "", unlabelled: bool = False
) -> list[SourceCase]:
    """Images and labels that belong together, in the order of their names.

    Args:
        images, labels: Case → file.
        title: Of the dataset, for messages.
        prefix: Of the cases' names in the prepared dataset.
        unlabelled: Whether images without labels may be left out in silence.

    Raises:
        InputError: Naming the first case that lacks its image or its label.
    """
    if without := [] if unlabelled else sorted(images.keys() - labels.keys()):
        raise InputError(
            f"{title}: {len(without)} scans have no label, the first is {images[without[0]]}; download the labels again"
        )
    if without := sorted(labels.keys() - images.keys()):
        raise InputError(
            f"{title}: {len(without)} labels have no scan, the first is {labels[without[0]]}; download the scans again"
        )
    return [SourceCase(name=prefix + case, image=images[case], label=labels[case]) for case in sorted(labels)]


def require_count(cases: Sequence[SourceCase], expected: int, what: str, *, title: str, partial: bool) -> None:
    """Refuse a download with fewer or more cases than the paper had, unless a part of it was asked for."""
    if len(cases) != expected and not (partial and cases):
        raise InputError(
            f"{title}: expected {expected} {what}, found {len(cases)}; complete the download, or say --partial to share out what is there"
        )


def drawn_parts(cases: Sequence[SourceCase], counts: Counts, seed: int = 0) -> Parts:
    """Cases shared out at random, the same way every time.

    Args:
        cases: Different names; their order doesn't matter.
        counts: Of the parts; made to fit where there are more or fewer cases.
        seed: Of the drawing.
    """
    counts = counts if counts.total == len(cases) else counts.of(len(cases))
    ordered = sorted(cases, key=lambda case: case.name)
    drawn = [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]
    ends = counts.training, counts.training + counts.validation
    parts = drawn[: ends[0]], drawn[ends[0] : ends[1]], drawn[ends[1] :]
    training, validation, test = (sorted(part, key=lambda case: case.name) for part in parts)
    return Parts(training=training, validation=validation, test=test)
