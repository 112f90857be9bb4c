"""MSD-Heart: left atrium in mono-modal MRI, task 2 of the Medical Segmentation Decathlon.

Expected download (``Task02_Heart.tar``, unpacked)::

    Task02_Heart/imagesTr/la_003.nii.gz, ...   20 scans
    Task02_Heart/labelsTr/la_003.nii.gz, ...   their labels, 0 and 1

The paper splits the 20 public labelled scans 6 / 10 / 4 and does not describe how; here the split
is random with seed 0. ``imagesTs``, which has no labels, is not used.
"""

from __future__ import annotations

from pathlib import Path

from nnunet_anatomix.datasets.layout import (
    Counts,
    Parts,
    files_by_case,
    labelled_cases,
    require_count,
    require_folder,
    split_randomly,
)
from nnunet_anatomix.datasets.raw_dataset import SegmentationDataset

_TITLE = "MSD-Heart"
_COUNTS = Counts(training=6, validation=10, test=4)


def _find(source: Path, partial: bool) -> Parts:
    files = [
        files_by_case(require_folder(source, part, title=_TITLE), r"(?P<case>la_\d+)\.nii\.gz")
        for part in ("imagesTr", "labelsTr")
    ]
    cases = labelled_cases(*files, title=_TITLE)
    require_count(cases, _COUNTS.total, "labelled scans", title=_TITLE, partial=partial)
    return split_randomly(cases, _COUNTS)


MSD_HEART = SegmentationDataset(
    key="msd-heart",
    title=_TITLE,
    number=701,
    name="MSDHeart",
    modality="MRI",
    labels=("left_atrium",),
    counts=_COUNTS,
    shots=(1,),
    crop=96,
    spacing_mm=(1.25, 1.25, 1.37),
    find=_find,
)
