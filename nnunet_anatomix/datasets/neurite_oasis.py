"""neurite-oasis: 35 structures of the adult brain in T1 MRI (Table 6, and transfer in Table 1).

Expected download (``neurite-oasis.v1.0.tar``, unpacked)::

    OASIS_OAS1_0001_MR1/aligned_norm.nii.gz     414 subjects
    OASIS_OAS1_0001_MR1/aligned_seg35.nii.gz    labels, 0 to 35

The paper describes neither the split nor which version of the images it uses; here the affinely
aligned ones are split 314 / 50 / 50 at random with seed 0.
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

_TITLE = "neurite-oasis"
_COUNTS = Counts(training=314, validation=50, test=50)


def _find(source: Path, partial: bool) -> Parts:
    folder = require_folder(source, title=_TITLE)
    pattern = r"(?:.*/)?(?P<case>OASIS_OAS1_\d+_MR\d)/{}\.nii\.gz"
    files = [files_by_case(folder, pattern.format(kind)) for kind in ("aligned_norm", "aligned_seg35")]
    cases = labelled_cases(*files, title=_TITLE)
    require_count(
        cases, _COUNTS.total, "subjects OASIS_OAS1_NNNN_MR1/aligned_norm.nii.gz", title=_TITLE, partial=partial
    )
    return split_randomly(cases, _COUNTS)


NEURITE_OASIS = SegmentationDataset(
    key="neurite-oasis",
    title=_TITLE,
    number=706,
    name="NeuriteOASIS",
    modality="MRI",
    labels=tuple(f"structure_{value:02d}" for value in range(1, 36)),
    counts=_COUNTS,
    shots=(1,),
    crop=160,
    spacing_mm=(1.0, 1.0, 1.0),
    batch=3,
    find=_find,
)
