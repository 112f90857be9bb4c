"""Command ``nnunet-anatomix intake``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import tyro

from pretraining.common.processes import available_cores

log = logging.getLogger(__name__)


def intake(
    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")],
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")],
    model: Annotated[str, tyro.conf.arg(aliases=["-m"])],
    maps: Annotated[tuple[str, ...], tyro.conf.arg(name="map")] = (),
    workers: int | None = None,
    originals_only: bool = False,
    dry_run: bool = False,
) -> None:
    """Convert folders of DICOM, NIfTI, NRRD or MetaImage to inputs of nnU-Net.

    DST/images is the input folder of nnUNetv2_predict. DST/intake.csv lists every series found,
    whether it is taken, and why. DST/sources lists the files of each case, DST/manifests what each
    run did. The latter three contain paths, descriptions or UIDs and stay in the clinic. Images,
    their names and all messages contain no patient data. A second run converts only missing or
    changed cases; cases keep their numbers.

    Args:
        src: Folder with scans; read only. Links are not followed, archives are not opened.
        dst: New or empty folder, or that of an earlier intake of SRC.
        model: Folder of a model or dataset, or ID or name of a dataset, that defines the channels.
        maps: Rules CHANNEL=FIELD:PATTERN that override the automatic choice of series. FIELD is
            description, path, modality, volume (patterns with * and ?, case-insensitive) or series
            (a SeriesInstanceUID); volume is the column of intake.csv that tells the echoes,
            b-values or time points of a series apart. All fields of a channel must match, and one
            pattern of each field. The rules rank what matches, and exclude reformats, masks and the
            like unless a description, path or UID names them. unit:suv converts PET to SUV by body
            weight, unit:stored does not. Example: --map 0=description:*t1* 0=modality:MR
            1=series:1.2.3.
        workers: Number of processes. Default: all cores.
        originals_only: Take no CT that is lossy compressed, or whose ImageType begins with DERIVED
            or has SECONDARY. Default: axial ones are taken if there is no original, with a remark.
        dry_run: Write nothing; print the content of intake.csv.
    """
    from nnunet_anatomix.clinical.intake.intake import intake as run_intake
    from nnunet_anatomix.clinical.phrases import pluralize
    from pretraining.common.errors import InputError

    if workers is not None and workers < 1:
        raise InputError(f"--workers: expected 1 or more, found {workers}")
    result = run_intake(
        src,
        dst,
        model,
        maps=maps,
        workers=workers or available_cores(),
        originals_only=originals_only,
        dry_run=dry_run,
    )
    if dry_run:
        sys.stdout.write(result.table)
        log.info("%s would be taken; nothing is written", pluralize(len(result.cases), "case"))
        return
    log.info(
        "%s in %s, for nnUNetv2_predict -i; %s lists every series found",
        pluralize(len(result.cases), "case"),
        dst / "images",
        dst / "intake.csv",
    )
