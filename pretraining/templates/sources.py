"""Search for label files in the layouts of TotalSegmentator, nnU-Net and plain folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import DATASET_FILE
from pretraining.imaging.label_files import SUFFIXES, is_label_file, stem
from pretraining.templates.label_names import LABELS_FILE
from pretraining.templates.report import Rejection, unreadable

PROCEDURAL = re.compile(r"procedural(?::([1-9]\d*))?")
"""Source that means procedural shapes instead of a folder, with an optional number of shapes."""
PROCEDURAL_COUNT = 160
"""Default number of procedural shapes."""
TWICE = "reached twice, used once"
"""Reason for a folder that is reached again through another source or a link."""
TRAINING, TEST = "labelsTr", "labelsTs"
"""Folders with the label maps of an nnU-Net dataset."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files of one subject, which are read together, as some of their organs may be merged."""

    source: str
    """Name of the source."""
    subject: str
    """Name of the subject within the source."""
    folder: Path
    """Folder of the files."""
    names: tuple[str, ...]
    """Names of the files in the folder; the full paths of 140,000 files need too much memory."""
    licence: str = ""
    """Licence of the templates; empty if none is stated."""
    region: str = ""
    """Part of the body; empty if none is declared."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths of the files."""
        return tuple(self.folder / name for name in self.names)

    @property
    def names_file(self) -> Path:
        """File with the names of numbers: of the dataset in nnU-Net's layout, else of the folder.

        It may not exist.
        """
        return self.folder.parent / DATASET_FILE if _is_dataset_folder(self.folder) else self.folder / LABELS_FILE


@dataclass(frozen=True, kw_only=True)
class PlainFolder:
    """Files that are either binary masks of one subject or one label map per subject.

    Their content decides which.
    """

    folder: Path
    """Folder of the files."""
    names: tuple[str, ...]
    """Names of the files in the folder."""
    path: tuple[str, ...]
    """Name of the source, then the folders from there to this one."""
    licence: str = ""
    """Licence of the templates; empty if none is stated."""
    region: str = ""
    """Part of the body; empty if none is declared."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths of the files."""
        return tuple(self.folder / name for name in self.names)

    def groups(self, *, one_subject: bool) -> list[Group]:
        """Group the files by subject.

        Args:
            one_subject: True if the files are binary masks of one subject, False if each file is
                the label map of a subject.
        """
        common: dict[str, Any] = {"folder": self.folder, "licence": self.licence, "region": self.region}
        if one_subject:
            return [
                Group(source="/".join(self.path[:-1] or self.path), subject=self.path[-1], names=self.names, **common)
            ]
        stems = [stem(name) for name in self.names]
        counts = Counter(stems)
        subjects = [short if counts[short] == 1 else name for short, name in zip(stems, self.names, strict=True)]
        source = "/".join(self.path)
        return [
            Group(source=source, subject=subject, names=(name,), **common)
            for name, subject in zip(self.names, subjects, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class ProceduralShapes:
    """Source of procedural shapes, see :mod:`pretraining.templates.procedural`."""

    count: int
    """Number of shapes."""
    licence: str = ""
    """Licence of the templates; empty if none is stated."""
    region: str = ""
    """Part of the body; empty if none is declared."""

    @property
    def source(self) -> str:
        """Source name of the templates."""
        return "procedural"


Source = Group | PlainFolder | ProceduralShapes


def find_sources(
    sources: Sequence[Path], licences: Sequence[str] = (), regions: Sequence[str] = ()
) -> tuple[list[Source], list[Rejection]]:
    """Find the label files of all sources, in an order that depends on names alone.

    Folders are searched recursively and through links; a folder that is reached twice is used once.

    - TotalSegmentator (v1 and v2): a folder ``segmentations`` has the masks of one subject, named
      after the folder above, which has the scan.
    - nnU-Net raw dataset (``dataset.json`` and ``labelsTr``): each file in ``labelsTr`` is a label
      map. Nothing else is used: labels of test cases are for testing.
    - Any other folder with a ``labels.json``, {organ: number}: each file is a label map.
    - Any other folder: the content of the files decides.

    Args:
        sources: Folders and files, ``procedural`` or ``procedural:COUNT``.
        licences: One for all sources, one for each, or none; a LICENCE file in a source takes
            precedence.
        regions: Parts of the body that the sources show, one for each, or none.

    Returns:
        Sources to read, and folders that are unreadable or not used.

    Raises:
        InputError: If a source does not exist or has no label file, or if the number of licences or
            regions does not fit.
    """
    if len(licences) not in (0, 1, len(sources)):
        raise InputError(
            f"expected one licence for all sources or one for each of the {len(sources)}, found {len(licences)}"
        )
    if len(regions) not in (0, len(sources)):
        raise InputError(f"expected one region for each of the {len(sources)} sources, or none, found {len(regions)}")
    found: list[Source] = []
    rejected: list[Rejection] = []
    seen: set[tuple[int, int]] = set()
    occurrences: Counter[str] = Counter()
    for i, source in enumerate(sources):
        licence = licences[i % len(licences)] if licences else ""
        region = regions[i] if regions else ""
        if (procedural := PROCEDURAL.fullmatch(str(source))) and not source.exists():
            found.append(ProceduralShapes(count=int(procedural[1] or PROCEDURAL_COUNT), licence=licence, region=region))
            continue
        name = source.resolve().name
        occurrences[name] += 1
        # Subjects of two sources with the same name must not be confused.
        root = name if occurrences[name] == 1 else f"{name} ({occurrences[name]})"
        if source.is_file():
            licence = _read_licence(source.parent) or licence
            subject = stem(source.name)
            names = (source.name,)
            found.append(
                Group(source=root, subject=subject, folder=source.parent, names=names, licence=licence, region=region)
            )
        elif source.is_dir():
            found += _find_in_folder(source, root, licence, region, seen, rejected)
        else:
            raise InputError(f"no such template source: {source}; expected a folder or a label file")
    return found, rejected


def _find_in_folder(
    source: Path, root: str, licence: str, region: str, seen: set[tuple[int, int]], rejected: list[Rejection]
) -> list[Source]:
    found: list[Source] = []
    licence_of = {source.parent: licence}
    rejected_before = len(rejected)
    for folder, subfolders, names in _walk_folders(source, seen, rejected):
        licence_of[folder] = _read_licence(folder) or licence_of[folder.parent]
        files = tuple(name for name in names if is_label_file(name))
        path = (root, *folder.relative_to(source).parts)
        common: dict[str, Any] = {"folder": folder, "names": files, "licence": licence_of[folder], "region": region}
        if DATASET_FILE in names and TRAINING in subfolders:
            if TEST in subfolders:
                rejected.append(Rejection(str(folder / TEST), "labels of test cases are not used"))
            subfolders[:] = [TRAINING]
            continue
        if not files or "segmentations" in subfolders:
            continue
        if folder.name == "segmentations":
            subject = path[-2] if len(path) > 1 else folder.resolve().parent.name
            found.append(Group(source="/".join(path[:-2] or path[:1]), subject=subject, **common))
        elif _is_dataset_folder(folder):
            found += PlainFolder(path=path[:-1] or path, **common).groups(one_subject=False)
        elif LABELS_FILE in names:
            found += PlainFolder(path=path, **common).groups(one_subject=False)
        else:
            found.append(PlainFolder(path=path, **common))
    problems = rejected[rejected_before:]
    if not found and all(line.why != TWICE for line in problems):
        reason = next((f" ({line.what}: {line.why})" for line in problems), "")
        raise InputError(
            f"no label files under {source}{reason}; expected {', '.join(SUFFIXES)} "
            "(for example SUBJECT/segmentations/liver.nii.gz)"
        )
    return found


def _is_dataset_folder(folder: Path) -> bool:
    """Return whether a folder has the label maps of an nnU-Net dataset."""
    return folder.name in (TRAINING, TEST) and (folder.parent / DATASET_FILE).is_file()


def _walk_folders(
    source: Path, seen: set[tuple[int, int]], rejected: list[Rejection]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Iterate over folders and the sorted names in them; follow links, but visit a folder once."""

    def report(error: OSError) -> None:
        rejected.append(Rejection(str(error.filename), str(unreadable(error))))

    for name, subfolders, names in os.walk(source, followlinks=True, onerror=report):
        folder = Path(name)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            rejected.append(Rejection(str(folder), TWICE))
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(subfolder for subfolder in subfolders if not subfolder.startswith("."))
        yield folder, subfolders, sorted(names)


def _read_licence(folder: Path) -> str:
    """Return the first non-empty line of the folder's LICENCE or LICENSE file, or an empty text."""
    for path in sorted(folder.glob("LICEN[CS]E*")):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                return next((line.strip() for line in file if line.strip()), "")
        except OSError:
            continue
    return ""
