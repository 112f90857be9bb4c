"""Command ``nnunet-anatomix deliver``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions

log = logging.getLogger(__name__)


def deliver(
    predictions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PRED")],
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")],
    intake: Path,
    model: Annotated[str | None, tyro.conf.arg(aliases=["-m"])] = None,
    format: Literal["dicom", "nifti", "both"] = "both",
    overview: bool = True,
    sources: Path | None = None,
    dicom: Annotated[DicomOptions, tyro.conf.arg(name="")] = DicomOptions(),  # noqa: B008  # frozen
) -> None:
    """Deliver predictions as DICOM SEG, NIfTI, pictures and volumes in ml.

    DICOM objects contain patient and study of their source, as DICOM requires. File names, tables,
    pictures and messages contain case names only. A case is delivered again only if its prediction
    or the settings changed. PRED, the intake and the sources are read only. DST/manifests lists the
    software, weights, input UIDs and outcome of each run.

    Args:
        predictions: Folder that nnUNetv2_predict wrote (-o) from INTAKE/images.
        destination: Output folder; created if missing.
        intake: Folder that nnunet-anatomix intake wrote.
        model: Model, dataset or dataset.json that names the labels. Default: PRED/dataset.json.
        format: Formats to write; a case whose source is not DICOM always gets NIfTI.
        overview: One overview picture per case.
        sources: Folder that SRC of the intake was moved to. Default: where it was.
        dicom: DICOM objects to write.
    """
    from nnunet_anatomix.clinical.delivery.algorithm import describe_algorithm
    from nnunet_anatomix.clinical.delivery.deliver import Delivery
    from nnunet_anatomix.clinical.delivery.deliver import deliver as run_delivery
    from nnunet_anatomix.clinical.delivery.predicting_model import identify_predicting_model
    from nnunet_anatomix.clinical.delivery.structures import read_structures
    from nnunet_anatomix.clinical.intake.needs import find_needs
    from pretraining.common.errors import InputError
    from pretraining.imaging.dataset_json import DATASET_FILE

    if not predictions.is_dir():
        raise InputError(f"no folder {predictions}; expected the output folder of nnUNetv2_predict (-o)")
    dataset_file = predictions / DATASET_FILE if model is None else Path(find_needs(model).model) / DATASET_FILE
    if not dataset_file.is_file():
        raise InputError(
            f"no dataset.json in {predictions}, which names the labels; give a model, dataset or dataset.json to -m"
        )
    delivery = Delivery(
        intake=intake,
        destination=destination,
        structures=read_structures(dataset_file),
        algorithm=describe_algorithm(predictions / "plans.json", dataset_file.resolve().parent.name),
        format=format,
        overview=overview,
        sources=sources,
        dicom=dicom,
        model=identify_predicting_model(predictions, model, dataset_file.resolve().parent),
    )
    delivered = run_delivery(predictions, delivery)
    log.info("%d cases delivered by this run, all files are in %s", delivered, destination)
