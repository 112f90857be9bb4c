"""FeTA: seven tissues of the fetal brain in reconstructed T2 MRI (FeTA challenge 2.x).

Expected download::

    sub-001/anat/sub-001_rec-mial_T2w.nii.gz     from sub-041 to sub-080 rec-irtk, not rec-mial
    sub-001/anat/sub-001_rec-mial_dseg.nii.gz    labels, 0 to 7

The paper's 40 / 20 / 20 are the 80 subjects of the first release; later subjects (FeTA 2022 has
120) are ignored. The paper does not describe the split; here it is random with seed 0.
"""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)

_TITLE = "FeTA"
_COUNTS = Counts(training=40, validation=20, test=20)
_LAST_SUBJECT = 80


def _find(source: Path, partial: bool) -> Parts:
    folder = require_folder(source, title=_TITLE)
    files = [files_by_case(folder, rf"(?:.*/)?(?P<case>sub-\d+)_rec-\w+_{kind}\.nii\.gz") for kind in ("T2w", "dseg")]
    found = labelled_cases(*files, title=_TITLE)
    cases = [case for case in found if int(case.name.removeprefix("sub-")) <= _LAST_SUBJECT]
    if later := len(found) - len(cases):
        log.info("%s: %d subjects after sub-%03d are ignored, as in the paper", _TITLE, later, _LAST_SUBJECT)
    require_count(
        cases, _COUNTS.total, "subjects sub-NNN/anat/*_T2w.nii.gz with *_dseg.nii.gz", title=_TITLE, partial=partial
    )
    return split_randomly(cases, _COUNTS)


FETA = SegmentationDataset(
    key="feta",
    title=_TITLE,
    number=704,
    name="FeTA",
    modality="MRI",
    labels=("external_csf", "grey_matter", "white_matter", "ventricles", "cerebellum", "deep_grey_matter", "brainstem"),
    counts=_COUNTS,
    shots=(3,),
    crop=128,
    spacing_mm=(0.5, 0.5, 0.5),
    find=_find,
)
