"""``nnunet-anatomix deliver``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from nnunet_anatomix.clinical.delivery.dicom_segmentation import Algorithm

log = logging.getLogger(__name__)


def deliver(
    predictions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PRED")],
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")],
    intake: Path,
    model: Annotated[str | None, tyro.conf.arg(aliases=["-m"])] = None,
    format: Literal["dicom", "nifti", "both"] = "both",
    overview: bool = True,
) -> None:
    """Bring predictions back: DICOM SEG on the source series, NIfTI on the source grid, a picture a case, and volumes in ml.

    A SEG carries patient and study of its source, as DICOM demands; file names, tables, pictures
    and messages name cases alone. Cases that are there already are left alone unless their
    prediction, or what is asked for, changed. PRED, the intake and the sources are only read.

    Args:
        predictions: Folder that nnUNetv2_predict wrote (-o), from INTAKE/images.
        destination: Folder for everything; made if missing.
        intake: Folder that nnunet-anatomix intake wrote.
        model: Whose dataset.json names the labels: a model's or dataset's folder, a dataset.json,
            or the ID or name of a dataset; by default the dataset.json that nnUNetv2_predict leaves
            in PRED.
        format: dicom, nifti or both; a case whose source is no DICOM gets NIfTI in any case.
        overview: A picture a case; --no-overview does without.
    """
    from nnunet_anatomix.clinical.delivery.deliver import Delivery
    from nnunet_anatomix.clinical.delivery.deliver import deliver as run
    from nnunet_anatomix.clinical.delivery.structures import read_structures
    from nnunet_anatomix.clinical.intake.needs import find_needs
    from pretraining.common.errors import InputError
    from pretraining.imaging.dataset_json import DATASET_FILE

    if not predictions.is_dir():
        raise InputError(f"no folder {predictions}; name the one that nnUNetv2_predict wrote into (-o)")
    described = predictions / DATASET_FILE if model is None else Path(find_needs(model).model) / DATASET_FILE
    if not described.is_file():
        raise InputError(
            f"no dataset.json in {predictions}, which names the labels; name a model, dataset or dataset.json with -m"
        )
    delivery = Delivery(
        intake=intake,
        destination=destination,
        structures=read_structures(described),
        algorithm=_algorithm(predictions, described.resolve().parent.name),
        format=format,
        overview=overview,
    )
    done = run(predictions, delivery)
    log.info("%d delivered now; all of it is in %s", done, destination)


def _algorithm(predictions: Path, folder: str) -> Algorithm:
    """What the plans that nnUNetv2_predict left say of the model, and the name of a trained model's folder."""
    from nnunet_anatomix.clinical.delivery.dicom_segmentation import Algorithm

    try:
        plans = json.loads((predictions / "plans.json").read_text(encoding="utf-8"))
        known = {"plans": str(plans.get("plans_name") or ""), "model": str(plans.get("dataset_name") or "")}
    except (OSError, ValueError, AttributeError):
        known = {"plans": "", "model": ""}
    model = known.pop("model")
    if folder.count("__") == 2:
        known |= dict(zip(("trainer", "plans", "configuration"), folder.split("__"), strict=True))
    return Algorithm(model=model, parameters={name: value for name, value in known.items() if value})
