"""MM-WHS: CT and MRI of hearts of different people, aligned and paired (App. B.4.4).

Expected download (the training archives of the Multi-Modality Whole Heart Segmentation challenge
2017, unpacked next to each other)::

    ct_train/ct_train_1001_image.nii.gz, ct_train_1001_label.nii.gz, ...    20 CT
    mr_train/mr_train_1001_image.nii.gz, mr_train_1001_label.nii.gz, ...    20 MRI

As in the paper, the first CT on a grid of 160×160×128 voxels of 1.142×1.142×1.283 mm defines the
space. Unlike the paper, all scans are aligned to it directly, by our affine stage on descriptors,
rather than through a mean CT and the labels of the MRI. Scans are paired in their order, MRI to CT:
5 pairs for tuning and 15 for testing; the paper does not name its pairs. Its additional labels
(descending aorta, spine) are not public.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.datasets.case_files import ENDING, read_label
from nnunet_anatomix.datasets.claim import claim_folder, files_digest
from nnunet_anatomix.datasets.layout import SourceCase, files_by_case, labelled_cases, require_count, require_folder
from nnunet_anatomix.datasets.registration_pairs import PairRow, PairSettings, write_pairs
from nnunet_anatomix.registration.atlas.align import align_scans
from nnunet_anatomix.registration.atlas.scan_list import read_atlas_scans
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from pretraining.backbone.external_weights import load_feature_weights
from pretraining.common.device import has_bf16_units, resolve_device
from pretraining.common.errors import InputError
from pretraining.common.tables import write_csv
from pretraining.imaging.limits import CT_WINDOW_HU
from pretraining.imaging.scans import read_image, validate_scan
from pretraining.imaging.writing import write_image

_TITLE = "MM-WHS"
_SCANS, _TUNING_PAIRS = 20, 5
_SIZE, _SPACING_MM = (160, 160, 128), (1.142, 1.142, 1.283)
VALUES = {0: 0, 500: 1, 600: 2, 420: 3, 550: 4, 205: 5, 820: 6, 850: 7, 421: 3}
"""Value in the download → label.

Left ventricle, right ventricle, left atrium, right atrium, myocardium, ascending aorta, pulmonary
artery; 421 is a typo of 420 in the dataset.
"""

FOLDER = "Registration_MMWHS"
"""Folder in ``nnUNet_raw``, with a name that nnU-Net does not list as a dataset."""


def _find_cases(source: Path, modality: str, partial: bool) -> list[SourceCase]:
    folder = require_folder(source, f"{modality}_train", title=_TITLE)
    files = [
        files_by_case(folder, rf"(?:.*/)?(?P<case>{modality}_train_\d+)_{kind}\.nii\.gz") for kind in ("image", "label")
    ]
    cases = labelled_cases(*files, title=_TITLE)
    require_count(cases, _SCANS, f"labelled scans in {modality}_train", title=_TITLE, partial=partial)
    return cases


def prepare_pairs(
    source: Path,
    out: Path,
    *,
    partial: bool = False,
    weights: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
) -> Path:
    """Align all scans and write the pairs; the same call resumes an interrupted one.

    Args:
        source: Folder of the download.
        out: ``nnUNet_raw``, in which the folder is created.
        partial: Accept an incomplete download.
        weights: Weights for the alignment; ``none`` for MIND-SSC alone. Default: the bundled ones.
        device: Device of the network.

    Returns:
        Folder of the pairs.

    Raises:
        InputError: If the download has another layout, or the folder holds something else.
        CommandFailed: If a scan cannot be aligned; the alignments of the others are kept.
    """
    cases = {modality: _find_cases(source, modality, partial) for modality in ("ct", "mr")}
    pairs = list(zip(cases["ct"], cases["mr"], strict=False))
    tuning = _TUNING_PAIRS if len(pairs) == _SCANS else max(1, len(pairs) * _TUNING_PAIRS // _SCANS)
    if len(pairs) <= tuning:
        raise InputError(
            f"{_TITLE}: expected at least 2 CT and 2 MRI, for tuning and testing, found {len(pairs)} pairs; "
            "download more"
        )
    folder = out / FOLDER
    all_cases = [case for of_modality in cases.values() for case in of_modality]
    files = files_digest(path for case in all_cases for path in (case.image, case.label))
    with claim_folder(
        folder, {"dataset": "mm-whs", "partial": partial, "weights": weights or "bundled", "files": files}
    ):
        for case in all_cases:
            _convert_label(case, folder / "own_labels" / f"{case.name}{ENDING}")
        reference = folder / f"reference{ENDING}"
        if not reference.is_file():
            write_image(reference, reference_grid(validate_scan(read_image(cases["ct"][0].image, _TITLE), _TITLE)))
        scans = [
            [case.name, case.image.resolve(), f"own_labels/{case.name}{ENDING}", modality, window]
            for modality, window in (("ct", "{:g} {:g}".format(*CT_WINDOW_HU)), ("mr", ""))
            for case in cases[modality]
        ]
        write_csv(folder / "scans.csv", ["name", "scan", "labels", "group", "clip"], scans)
        aligned = folder / "aligned"
        _align(folder / "scans.csv", aligned, reference, weights, device)
        for case in all_cases:
            _write_mask(case, aligned, reference, folder / "masks" / f"{case.name}{ENDING}")
        rows = [_pair_row(fixed.name, moving.name) for fixed, moving in pairs]
        write_pairs(folder, PairSettings(name=_TITLE, fixed_clip=CT_WINDOW_HU), rows[:tuning], rows[tuning:])
    return folder


def _align(scans: Path, out: Path, reference: Path, weights: str | None, device: str) -> None:
    """Align all scans to the reference; an interrupted alignment resumes."""
    runs_on = resolve_device(device)
    features = weights != "none"
    align_scans(
        read_atlas_scans(scans),
        out,
        atlas=reference,
        atlas_clip=CT_WINDOW_HU,
        config=DescriptorConfig(bf16=has_bf16_units(runs_on)) if features else DescriptorConfig(feature_weight=0.0),
        weights=load_feature_weights(weights) if features else None,
        device=runs_on,
    )


def reference_grid(first: sitk.Image) -> sitk.Image:
    """Resample the first CT to the paper's grid about its centre, with air beyond the scan."""
    direction = np.array(first.GetDirection()).reshape(3, 3)
    centre = np.array(first.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in first.GetSize()]))
    origin = centre - direction @ ((np.array(_SIZE) - 1) / 2 * _SPACING_MM)
    options = (sitk.Transform(), sitk.sitkLinear, origin.tolist(), _SPACING_MM, first.GetDirection(), CT_WINDOW_HU[0])
    return sitk.Resample(first, _SIZE, *options)


def _convert_label(case: SourceCase, out: Path) -> None:
    if not out.is_file():
        scan = validate_scan(read_image(case.image, f"{_TITLE}, {case.image.name}"), f"{_TITLE}, {case.image.name}")
        write_image(out, read_label(case.label, scan, VALUES, _TITLE))


def _write_mask(case: SourceCase, aligned: Path, reference: Path, out: Path) -> None:
    """Write the field of view of an aligned scan as a mask."""
    if out.is_file():
        return
    scan, grid = sitk.ReadImage(str(case.image)), sitk.ReadImage(str(reference))
    ones = sitk.Image(scan.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(scan)
    transform = sitk.ReadTransform(str(aligned / f"{case.name}_affine.tfm"))
    write_image(out, sitk.Resample(ones, grid, transform, sitk.sitkNearestNeighbor, 0.0))


def _pair_row(fixed: str, moving: str) -> PairRow:
    return PairRow(
        name=f"{moving}_on_{fixed}",
        fixed=f"aligned/{fixed}_aligned{ENDING}",
        moving=f"aligned/{moving}_aligned{ENDING}",
        fixed_labels=f"aligned/{fixed}_labels{ENDING}",
        moving_labels=f"aligned/{moving}_labels{ENDING}",
        fixed_mask=f"masks/{fixed}{ENDING}",
        moving_mask=f"masks/{moving}{ENDING}",
    )
