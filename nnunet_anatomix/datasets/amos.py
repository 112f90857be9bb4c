"""AMOS-CT: fifteen abdominal organs in CT (AMOS challenge 2022).

Expected download (``amos22.zip``, unpacked)::

    imagesTr/amos_0001.nii.gz, labelsTr/amos_0001.nii.gz, ...    200 CT and 40 MRI
    imagesVa/amos_0008.nii.gz, labelsVa/amos_0008.nii.gz, ...    100 CT and 20 MRI

MRI, which have numbers from 500 on, are ignored. As in the paper, the public validation scans are
the test set, and the training scans are split 180 / 20. The paper does not describe this split;
here it is random with seed 0. Table 1 lists 3 fine-tuning volumes, Table 8 lists 1: ``--shots``
accepts either, and 3 is the default.
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
    split_randomly,
)
from nnunet_anatomix.datasets.raw_dataset import SegmentationDataset
from pretraining.common.errors import InputError

_TITLE = "AMOS-CT"
_COUNTS = Counts(training=180, validation=20, test=100)
_FIRST_MRI = 500


def _find(source: Path, partial: bool) -> Parts:
    def cases(part: str, expected: int) -> list[SourceCase]:
        folders = [require_folder(source, f"{kind}{part}", title=_TITLE) for kind in ("images", "labels")]
        images, labels = (files_by_case(folder, r"(?P<case>amos_\d+)\.nii\.gz") for folder in folders)
        found = labelled_cases(images, labels, title=_TITLE)
        scans = [case for case in found if int(case.name.removeprefix("amos_")) < _FIRST_MRI]
        require_count(scans, expected, f"CT scans in images{part}", title=_TITLE, partial=partial)
        return scans

    train, test = cases("Tr", _COUNTS.training + _COUNTS.validation), cases("Va", _COUNTS.test)
    if len(train) < 2:
        raise InputError(
            f"{_TITLE}: expected at least 2 CT scans in imagesTr, for training and validation, found {len(train)}; "
            "download more"
        )
    validation = _COUNTS.validation if len(train) == 200 else max(1, len(train) // 10)
    # The test set has its own scans, so none is drawn.
    parts = split_randomly(train, Counts(training=len(train) - validation, validation=validation, test=0))
    return Parts(training=parts.training, validation=parts.validation, test=test)


AMOS_CT = SegmentationDataset(
    key="amos-ct",
    title=_TITLE,
    number=705,
    name="AMOSCT",
    modality="CT",
    labels=(
        "spleen",
        "right_kidney",
        "left_kidney",
        "gall_bladder",
        "esophagus",
        "liver",
        "stomach",
        "aorta",
        "postcava",
        "pancreas",
        "right_adrenal_gland",
        "left_adrenal_gland",
        "duodenum",
        "bladder",
        "prostate_or_uterus",
    ),
    counts=_COUNTS,
    shots=(3, 1),
    crop=96,
    spacing_mm=(1.5, 1.5, 2.0),
    find=_find,
)
