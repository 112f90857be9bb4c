"""Learn2Reg AbdomenMRCT: MRI and CT of the abdomen with labels of four organs.

Expected download (``AbdomenMRCT.zip``, unpacked)::

    imagesTr/AbdomenMRCT_0001_0000.nii.gz     MRI; with _0001 in place of _0000, CT
    labelsTr/AbdomenMRCT_0001_0000.nii.gz     labels, 0 to 4, of labelled scans
    masksTr/AbdomenMRCT_0001_0000.nii.gz      masks of the pairs

Segmentation (L2RAb-MRI) uses all labelled MRI, paired or not, split 24 / 12 / 12. The paper does
not describe the split; here it is random with seed 0. Registration uses the eight numbers with both
MRI and CT, MRI to CT: 1 pair for tuning and 7 for testing. The paper does not name the pair for
tuning; here it is the first. The labels are those of Learn2Reg; ``imagesTs`` has none and is not
used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.datasets.case_files import ENDING, convert_case
from nnunet_anatomix.datasets.claim import claim_folder, files_digest
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
from nnunet_anatomix.datasets.registration_pairs import PairRow, PairSettings, write_pairs
from pretraining.common.errors import InputError
from pretraining.imaging.limits import CT_WINDOW_HU
from pretraining.imaging.scans import read_image
from pretraining.imaging.writing import write_image

_TITLE = "L2R AbdomenMRCT"
_COUNTS = Counts(training=24, validation=12, test=12)
_PAIRS, _TUNING_PAIRS = 8, 1
_MRI, _CT = "0000", "0001"
_ORGANS = ("liver", "spleen", "right_kidney", "left_kidney")

FOLDER = "Registration_L2RAbdomenMRCT"
"""Folder in ``nnUNet_raw``, with a name that nnU-Net does not list as a dataset."""


def _find_files(source: Path, kind: str, modality: str) -> dict[str, Path]:
    return files_by_case(
        require_folder(source, f"{kind}Tr", title=_TITLE), rf"(?P<case>AbdomenMRCT_\d+)_{modality}\.nii\.gz"
    )


def _find(source: Path, partial: bool) -> Parts:
    cases = labelled_cases(
        _find_files(source, "images", _MRI), _find_files(source, "labels", _MRI), title=_TITLE, unlabelled=True
    )
    require_count(cases, _COUNTS.total, "labelled MRI", title=_TITLE, partial=partial)
    return split_randomly(cases, _COUNTS)


L2R_ABDOMEN_MRI = SegmentationDataset(
    key="l2r-abdomen",
    title="L2RAb-MRI",
    number=703,
    name="L2RAbdomenMRI",
    modality="MRI",
    labels=_ORGANS,
    counts=_COUNTS,
    shots=(3,),
    crop=128,
    spacing_mm=(2.0, 2.0, 2.0),
    find=_find,
)


def prepare_pairs(source: Path, out: Path, *, partial: bool = False) -> Path:
    """Write the pairs with labels and masks; the same call resumes an interrupted one.

    Args:
        source: Folder of the download.
        out: ``nnUNet_raw``, in which the folder is created.
        partial: Accept an incomplete download.

    Returns:
        Folder of the pairs.

    Raises:
        InputError: If the download has another layout, or the folder holds something else.
    """
    masks = (
        {modality: _find_files(source, "masks", modality) for modality in (_MRI, _CT)}
        if (source / "masksTr").is_dir()
        else {}
    )
    images = {modality: _find_files(source, "images", modality) for modality in (_MRI, _CT)}
    labels = {modality: _find_files(source, "labels", modality) for modality in (_MRI, _CT)}
    names = sorted(images[_MRI].keys() & images[_CT].keys() & labels[_MRI].keys() & labels[_CT].keys())
    pairs = {
        name: {
            modality: SourceCase(
                name=f"{name}_{modality}",
                image=images[modality][name],
                label=labels[modality][name],
                mask=masks[modality].get(name) if masks else None,
            )
            for modality in (_MRI, _CT)
        }
        for name in names
    }
    require_count(
        [pair[_CT] for pair in pairs.values()], _PAIRS, "labelled pairs of MRI and CT", title=_TITLE, partial=partial
    )
    if len(pairs) <= _TUNING_PAIRS:
        raise InputError(
            f"{_TITLE}: expected at least {_TUNING_PAIRS + 1} labelled pairs, for tuning and testing, "
            f"found {len(pairs)}; download more"
        )
    cases = [case for pair in pairs.values() for case in pair.values()]
    if unmasked := [case.image.name for case in cases if masks and case.mask is None]:
        raise InputError(
            f"{_TITLE}: expected a mask in masksTr for each scan of a pair, found none for {len(unmasked)} scans, "
            f"the first is {unmasked[0]}; download again"
        )
    folder = out / FOLDER
    files = files_digest(
        path for case in cases for path in (case.image, case.label, *([case.mask] if case.mask else []))
    )
    with claim_folder(folder, {"dataset": "l2r-abdomen, pairs", "partial": partial, "files": files}):
        values = {value: value for value in range(len(_ORGANS) + 1)}
        for case in cases:
            convert_case(
                case,
                folder / "images" / f"{case.name}{ENDING}",
                folder / "labels" / f"{case.name}{ENDING}",
                values,
                _TITLE,
            )
            if case.mask:
                _convert_mask(case, case.mask, folder / "masks" / f"{case.name}{ENDING}")
        rows = [_pair_row(name, pair) for name, pair in pairs.items()]
        write_pairs(
            folder, PairSettings(name=_TITLE, fixed_clip=CT_WINDOW_HU), rows[:_TUNING_PAIRS], rows[_TUNING_PAIRS:]
        )
    return folder


def _pair_row(name: str, pair: dict[str, SourceCase]) -> PairRow:
    def paths(kind: str) -> dict[str, str]:
        return {role: f"{kind}/{pair[modality].name}{ENDING}" for role, modality in (("fixed", _CT), ("moving", _MRI))}

    masks = paths("masks") if pair[_CT].mask else {"fixed": "", "moving": ""}
    labels = paths("labels")
    return PairRow(
        name=name,
        **paths("images"),
        fixed_labels=labels["fixed"],
        moving_labels=labels["moving"],
        fixed_mask=masks["fixed"],
        moving_mask=masks["moving"],
    )


def _convert_mask(case: SourceCase, path: Path, out: Path) -> None:
    if out.is_file():
        return
    role = f"{_TITLE}, mask {path.name}"
    mask = read_image(path, role)
    scan = read_image(case.image, role)
    if mask.GetSize() != scan.GetSize():
        raise InputError(
            f"{role}: expected {scan.GetSize()} voxels, as its scan has, found {mask.GetSize()}; download both again"
        )
    written = sitk.GetImageFromArray((sitk.GetArrayViewFromImage(mask) > 0).astype(np.uint8))
    written.CopyInformation(scan)
    write_image(out, written)
