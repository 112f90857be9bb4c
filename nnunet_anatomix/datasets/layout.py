"""Layout of a download: find files by name, check their number, split them as in Table 8."""

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
    """Name in the prepared dataset."""
    image: Path
    label: Path
    mask: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Cases of a dataset for training, validation and test."""

    training: list[SourceCase]
    validation: list[SourceCase]
    test: list[SourceCase]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of volumes of each part (Table 8)."""

    training: int
    """Volumes for full supervision, including the few for fine-tuning."""
    validation: int
    test: int

    @property
    def total(self) -> int:
        """Number of volumes of all parts."""
        return self.training + self.validation + self.test

    def scaled_to(self, found: int) -> Counts:
        """Return counts for another number of cases in the same proportions, at least 1 each."""
        validation, test = (max(1, round(found * part / self.total)) for part in (self.validation, self.test))
        if (training := found - validation - test) < 1:
            raise InputError(f"expected at least 3 labelled scans to split, found {found}; download more")
        return Counts(training=training, validation=validation, test=test)


def require_folder(source: Path, *parts: str, title: str) -> Path:
    """Return a folder of the download.

    Args:
        source: Folder of the download.
        *parts: Subfolders.
        title: Title of the dataset, for messages.

    Returns:
        The folder.

    Raises:
        InputError: If it does not exist; the message lists what exists.
    """
    folder = source.joinpath(*parts)
    if not folder.is_dir():
        found = (
            sorted(path.name for path in source.iterdir() if not path.name.startswith("."))[:8]
            if source.is_dir()
            else "no folder"
        )
        expected = "/".join(parts) or "with the download"
        raise InputError(
            f"{title}: expected a folder {expected} in {source}, found {found}; docs/reproduce.md shows the layout"
        )
    return folder


def files_by_case(folder: Path, pattern: str) -> dict[str, Path]:
    """Find files whose path matches a pattern; hidden files, which some archives hold, are ignored.

    Args:
        folder: Folder to search, with its subfolders.
        pattern: Regular expression of the path relative to ``folder``, with ``/`` between folders
            and a group ``case``.

    Returns:
        Case → file.
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
    """Match images with labels, in the order of their names.

    Args:
        images: Case → image file.
        labels: Case → label file.
        title: Title of the dataset, for messages.
        prefix: Prefix of the names in the prepared dataset.
        unlabelled: Ignore images without labels.

    Returns:
        All labelled cases.

    Raises:
        InputError: If an image or a label is missing; the message names the first case.
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
    """Check that there are as many cases as in the paper, or at least one if ``partial``."""
    if len(cases) != expected and not (partial and cases):
        raise InputError(
            f"{title}: expected {expected} {what}, found {len(cases)}; "
            "complete the download, or use --partial to split the available ones"
        )


def split_randomly(cases: Sequence[SourceCase], counts: Counts, seed: int = 0) -> Parts:
    """Split cases at random, reproducibly.

    Args:
        cases: Cases with different names, in any order.
        counts: Numbers per part, scaled if there are more or fewer cases.
        seed: Seed of the split.

    Returns:
        The parts, each sorted by name.
    """
    counts = counts if counts.total == len(cases) else counts.scaled_to(len(cases))
    ordered = sorted(cases, key=lambda case: case.name)
    shuffled = [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]
    ends = counts.training, counts.training + counts.validation
    parts = shuffled[: ends[0]], shuffled[ends[0] : ends[1]], shuffled[ends[1] :]
    training, validation, test = (sorted(part, key=lambda case: case.name) for part in parts)
    return Parts(training=training, validation=validation, test=test)
