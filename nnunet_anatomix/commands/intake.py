"""``nnunet-anatomix intake``."""

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
    dry_run: bool = False,
) -> None:
    """Convert what a model needs from clinical folders (DICOM, NIfTI, NRRD, MetaImage) to inputs of nnUNetv2_predict.

    DST/images is the input folder for nnUNetv2_predict, DST/intake.csv lists every series found,
    taken or not, and why, and DST/sources links each case to its files. The latter two hold paths,
    descriptions and UIDs: they stay in the clinic. Images, their names and all messages hold no
    patient data. A second run converts only what is missing or has changed; cases keep their
    numbers.

    Args:
        src: Folder with scans, of any depth and mixture; never written to. Links in it are not
            followed, archives not opened.
        dst: New or empty folder, or that of an earlier intake of SRC.
        model: Folder of a trained model or of a dataset, or a dataset's ID or name: its
            dataset.json says which channels are needed.
        maps: Says what a channel is where the rules would not: CHANNEL=FIELD:PATTERN, FIELD one of
            description, path, modality (patterns with * and ?, letter case does not matter) or
            series (a SeriesInstanceUID, for the case that has it). Several fields of a channel must
            all match, of several patterns of one field any. Such as --map 0=description:*t1*
            0=modality:MR 1=series:1.2.3.
        workers: Processes; as many as there are cores if left out.
        dry_run: Write nothing, but print what intake.csv would hold.
    """
    from nnunet_anatomix.clinical.intake.intake import intake as take_in
    from nnunet_anatomix.clinical.phrases import count_phrase
    from pretraining.common.errors import InputError

    if workers is not None and workers < 1:
        raise InputError(f"--workers: expected 1 or more, found {workers}")
    done = take_in(src, dst, model, maps=maps, workers=workers or available_cores(), dry_run=dry_run)
    if dry_run:
        sys.stdout.write(done.table)
        log.info("%s would be taken; nothing was written", count_phrase(len(done.cases), "case"))
        return
    taken = count_phrase(len(done.cases), "case")
    log.info(
        "%s in %s, for nnUNetv2_predict -i; every series found is in %s", taken, dst / "images", dst / "intake.csv"
    )
