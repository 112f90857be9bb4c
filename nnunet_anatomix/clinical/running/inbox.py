"""Inbox: a folder that receives studies, of which only complete ones are handed on.

A study counts as complete when none of its files was added, changed or removed for some time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from nnunet_anatomix.clinical.intake.intake import Scanned
from nnunet_anatomix.clinical.intake.scan_tree import Classified, classify_files, group_files
from nnunet_anatomix.clinical.walk import FoundFile, Stray, walk


class Inbox:
    """State of a watched folder. Headers are read once, when a file is new or has changed.

    Files belong together by StudyInstanceUID; files that are not DICOM belong to their folder. Time
    is measured from the moment a change is noticed, since a copy may keep the times of its source.

    Args:
        root: Absolute, resolved path of the folder.
        settle_s: Time without a change after which a study is complete, seconds.
        workers: Number of processes that read headers.
        clock: Function that returns the time, seconds.
    """

    def __init__(
        self, root: Path, settle_s: float, *, workers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root, self._settle_s, self._workers, self._clock = root, settle_s, workers, clock
        self._known: dict[FoundFile, Classified] = {}
        self._changed: dict[str, float] = {}
        self._handed_on: set[FoundFile] = set()

    @property
    def arriving(self) -> int:
        """Number of studies that are not complete yet."""
        return len({_study(item) for file, item in self._known.items() if file not in self._handed_on})

    def poll(self, *, again: bool = False) -> Scanned | None:
        """Look for changes and return all complete studies.

        Args:
            again: True to return them even if none of them is new.

        Returns:
            Series, and files outside of any series; None if nothing has become complete since the
                last result.
        """
        files, strays = walk(self._root)
        new, gone = [file for file in files if file not in self._known], self._known.keys() - set(files)
        items = {
            item.file if isinstance(item, Stray) else item.file.file: item
            for item in classify_files(self._root, new, workers=self._workers)
        }
        now = self._clock()
        for item in [*items.values(), *(self._known.pop(file) for file in gone)]:
            self._changed[_study(item)] = now
        self._known |= {file: items[file.file] for file in new}
        self._changed = {study: self._changed[study] for study in map(_study, self._known.values())}
        complete = [file for file in files if now - self._changed[_study(self._known[file])] >= self._settle_s]
        if not again and self._handed_on.issuperset(complete):
            return None
        self._handed_on = set(complete)
        return group_files(self._root, complete, [self._known[file] for file in complete], strays)


def _study(item: Classified) -> str:
    if isinstance(item, SliceHeader) and item.study_uid:
        return item.study_uid
    file = item.file if isinstance(item, Stray) else item.file.file
    return f"folder {PurePosixPath(file).parent}"
