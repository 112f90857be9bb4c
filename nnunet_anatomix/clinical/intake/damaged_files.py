"""Damaged files, which may be missing slices of the series in their folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from nnunet_anatomix.clinical.dicom.parsing import NOT_AN_IMAGE
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.phrases import pluralize

_ONE_DAMAGED = "1 file of 1: "
"""Start of the problem of a series that consists of one damaged file."""


def flag_missing_slices(series: Sequence[Series], damaged: Iterable[str]) -> list[Series]:
    """Flag series that may lack slices because their folder holds damaged DICOM files.

    Args:
        series: All DICOM series.
        damaged: Paths of files whose series is unknown. Damaged files that form a series of their
            own are added to them.

    Returns:
        The series. A series that is alone in such a folder gets a problem; if there are several,
            each gets a note. The volumes of one series count as one.
    """
    alone = {
        number
        for number, each in enumerate(series)
        if each.problem.startswith(_ONE_DAMAGED) and each.problem != _ONE_DAMAGED + NOT_AN_IMAGE
    }
    damaged_in = Counter(
        str(PurePosixPath(file).parent) for file in [*damaged, *(series[number].files[0] for number in alone)]
    )
    series_in: dict[str, set[int]] = defaultdict(set)
    for number, each in enumerate(series):
        if number not in alone:
            for folder in {file.rpartition("/")[0] or "." for file in each.files} & damaged_in.keys():
                series_in[folder].add(number)
    result = list(series)
    for folder, count in damaged_in.items():
        numbers = series_in[folder]
        remark = f"{pluralize(count, 'damaged DICOM file')} in its folder: possibly missing slices of this series"
        for number in numbers:
            each = result[number]
            if len({series[each].series_uid or each for each in numbers}) > 1:
                result[number] = replace(each, notes=(*each.notes, remark))
            elif not each.problem:
                result[number] = replace(each, problem=remark)
    return result
