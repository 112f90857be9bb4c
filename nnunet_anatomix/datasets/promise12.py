"""PROMISE12: prostate in T2 MRI (MICCAI challenge Prostate MR Image Segmentation 2012).

Expected download (the three archives of the public release, unpacked next to each other)::

    training_data/Case00.mhd, Case00.raw, Case00_segmentation.mhd, ...     50 scans: training
    test_data/Case00.mhd, Case00_segmentation.mhd, ...                     30 scans: test
    livechallenge_test_data/Case00.mhd, Case00_segmentation.mhd, ...       20 scans: validation

The parts are those of the paper (App. B.5). Files may be in subfolders. Case numbers start from 0
in each part, so names are prefixed with the part.
"""

from __future__ import annotations

from pathlib import Path

from nnunet_anatomix.datasets.layout import (
    Counts,
    Parts,
    SourceCase,
    files_by_case,
    labelled_cases,
    require_count,
    require_folder,
)
from nnunet_anatomix.datasets.raw_dataset import SegmentationDataset

_TITLE = "PROMISE12"
_COUNTS = Counts(training=50, validation=20, test=30)


def _find(source: Path, partial: bool) -> Parts:
    def cases(folder: str, expected: int) -> list[SourceCase]:
        root = require_folder(source, folder, title=_TITLE)
        images, labels = (
            files_by_case(root, rf"(?:.*/)?(?P<case>Case\d+){ending}\.mhd") for ending in ("", "_segmentation")
        )
        found = labelled_cases(images, labels, title=f"{_TITLE}, {folder}", prefix=f"{folder.split('_')[0]}_")
        require_count(found, expected, f"scans in {folder}", title=_TITLE, partial=partial)
        return found

    return Parts(
        training=cases("training_data", _COUNTS.training),
        validation=cases("livechallenge_test_data", _COUNTS.validation),
        test=cases("test_data", _COUNTS.test),
    )


PROMISE12 = SegmentationDataset(
    key="promise12",
    title=_TITLE,
    number=702,
    name="PROMISE12",
    modality="MRI",
    labels=("prostate",),
    counts=_COUNTS,
    shots=(2,),
    crop=96,
    spacing_mm=(0.625, 0.625, 0.625),
    find=_find,
)
