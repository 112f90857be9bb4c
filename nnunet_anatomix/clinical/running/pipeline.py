"""One route from scans to results: intake, prediction, delivery, sending.

Each step continues from the files that the steps before have completed, so that the same call
resumes after any interruption.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_anatomix.clinical.cases import SOURCES
from nnunet_anatomix.clinical.delivery.algorithm import describe_algorithm
from nnunet_anatomix.clinical.delivery.deliver import Delivery, Format, deliver
from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.delivery.structures import read_structures
from nnunet_anatomix.clinical.intake.intake import NothingTaken, Scanned, intake
from nnunet_anatomix.clinical.intake.mapping import check_channels, parse_maps
from nnunet_anatomix.clinical.intake.needs import find_needs
from nnunet_anatomix.clinical.manifest import ModelFiles
from nnunet_anatomix.clinical.network.sending import Receiver, send_results
from nnunet_anatomix.clinical.running.folders import RunFolders
from nnunet_anatomix.clinical.running.prediction import Predictor
from nnunet_anatomix.clinical.running.routes import Route
from nnunet_anatomix.clinical.running.trained_model import PLANS_FILE, find_trained_model
from pretraining.common.errors import CommandFailed, Interrupted

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps of one route."""

    route: Route
    folders: RunFolders
    predictor: Predictor
    delivery: Delivery
    receivers: Sequence[Receiver] = ()
    """Systems that get the DICOM results."""
    workers: int = 1
    """Number of processes of the intake."""

    def run(self, source: Path, scanned: Scanned) -> bool:
        """Take the scans of the route through all steps.

        Args:
            source: Root of the scans.
            scanned: Series and other files of ``source``.

        Returns:
            False if no scan could be taken.

        Raises:
            InputError: For an intake of other scans or for another model in the same folder.
            CommandFailed: If cases failed, after all others are finished.
            Interrupted: On a stop signal. The same call resumes.
        """
        series, strays = scanned
        is_taken = True
        try:
            intake(
                source,
                self.folders.intake,
                str(self.predictor.model.folder),
                maps=self.route.map,
                originals_only=self.route.originals_only,
                workers=self.workers,
                scanned=(self.route.select(series), strays),
            )
        except NothingTaken as reason:
            log.warning("%s", reason)
            is_taken = False
        problems = []
        for step in (self._predict, self._deliver, self._send):
            try:
                step()
            except Interrupted:
                raise
            except CommandFailed as problem:  # of some cases; the next step processes the others
                problems.append(str(problem))
        if problems:
            raise CommandFailed("; ".join(problems))
        return is_taken

    def _predict(self) -> None:
        if (self.folders.intake / SOURCES).is_dir():
            self.predictor.predict(self.folders)

    def _deliver(self) -> None:
        if any(self.folders.predictions.glob("case_*")):
            model = self.predictor.model
            files = ModelFiles(name=model.name, parameters=self.delivery.algorithm.parameters, sha256=model.sha256)
            deliver(self.folders.predictions, replace(self.delivery, model=files))

    def _send(self) -> None:
        send_results(self.folders.results, self.folders.sent, self.receivers)


def build_pipeline(
    route: Route,
    destination: Path,
    *,
    device: str,
    format: Format = "both",
    overview: bool = True,
    dicom: DicomOptions | None = None,
    workers: int = 1,
    receivers: Sequence[Receiver] = (),
) -> Pipeline:
    """Check a route and its model.

    Args:
        route: Route.
        destination: DST of the run.
        device: Value of nnU-Net's ``-device``.
        format: Formats to deliver.
        overview: True to deliver an overview picture per case.
        dicom: DICOM objects to deliver. Default: a DICOM SEG.
        workers: Number of processes of the intake.
        receivers: Systems that get the DICOM results.

    Raises:
        InputError: If there is no such trained model, or its channels need other maps.
    """
    model = find_trained_model(route.model, route.folds)
    channels = find_needs(str(model.folder)).channels
    check_channels(parse_maps(route.map, channels), channels)
    folders = RunFolders(destination / route.name if route.name else destination)
    delivery = Delivery(
        intake=folders.intake,
        destination=folders.results,
        structures=read_structures(model.dataset_file),
        algorithm=describe_algorithm(model.folder / PLANS_FILE, model.folder.name),
        format=format,
        overview=overview,
        dicom=dicom or DicomOptions(),
    )
    return Pipeline(
        route=route,
        folders=folders,
        predictor=Predictor(model=model, device=device, mirroring=route.mirroring),
        delivery=delivery,
        receivers=receivers,
        workers=workers,
    )
