"""``nnunet-anatomix apply``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.common.errors import UsageError

log = logging.getLogger(__name__)


def apply(
    out: Path,
    transform: Annotated[Path | None, tyro.conf.Positional] = None,
    to: tuple[Path, ...] = (),
    reference: Path | None = None,
    batch: Path | None = None,
    inverse: bool = False,
    interpolation: Literal["auto", "linear", "nearest"] = "auto",
) -> None:
    """Move images, labels and points of a scan by a transform.

    Types are kept, values of labels too. Points (.mrk.json, .fcsv, .csv in mm, LPS) move together
    with the image.

    Args:
        out: Folder for the moved files, which keep their names.
        transform: Folder of a registration, transform (ITK, ANTs, .lta, elastix) or field.
        to: Files to move: images, label maps, points.
        reference: Image on the target grid, such as the fixed scan, or its DICOM folder. Not needed
            for points.
        batch: CSV of many files, with columns transform, to, and optionally reference, name.
        inverse: Move from the fixed to the moving scan; the reference is then the moving scan.
        interpolation: Interpolation: linear, nearest for labels, or auto, by the values.
    """
    from nnunet_anatomix.clinical.intake.single_scan import read_scan
    from nnunet_anatomix.registration.apply_files import applications, apply_to_files, read_applications
    from pretraining.common.outputs import try_folder

    if batch is not None:
        if transform or to or reference:
            raise UsageError("with --batch, transform, files and reference are columns of the CSV; omit them")
        try_folder(out)
        tasks = read_applications(batch)
    else:
        if transform is None or not to:
            raise UsageError("expected a transform and files to move; use apply TRANSFORM --to FILE..., or --batch CSV")
        try_folder(out)
        tasks = applications(transform, to, reference)
    done = apply_to_files(tasks, out, inverse=inverse, interpolation=interpolation, read_scan=read_scan)
    log.info("%d files moved; results are in %s", done, out)
