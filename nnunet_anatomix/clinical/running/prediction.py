"""Stock prediction of the cases of an intake, in child processes.

nnU-Net writes into a folder of its own. A prediction moves to the others once it is complete, then
gets a record of what it was made from. A prediction without a valid record does not count.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nnunet_anatomix.clinical.cases import CaseSource, image_file, read_sources, source_file
from nnunet_anatomix.clinical.delivery.records import DELIVERED, withdraw_outdated
from nnunet_anatomix.clinical.manifest import format_time
from nnunet_anatomix.clinical.phrases import pluralize
from nnunet_anatomix.clinical.running.folders import RunFolders
from nnunet_anatomix.clinical.running.trained_model import CHECKPOINT, TrainedModel
from pretraining.common.atomic import atomic_write, write_text
from pretraining.common.batch import run_batch
from pretraining.common.child import run_child
from pretraining.common.completeness import Incomplete, check_complete
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from pretraining.common.fingerprint import file_sha256, fingerprint
from pretraining.common.processes import available_cores
from pretraining.imaging.scans import read_image

log = logging.getLogger(__name__)

_MAX_PROCESSES = 3
"""nnU-Net's own number of processes for preprocessing, and for export."""
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """Record of one prediction: ``DST/predicted/CASE.json``."""

    case: str
    inputs: str
    """Hash of the source record, the model and its settings."""
    model: Mapping[str, str]
    """SHA-256 of the model's files; see :attr:`.trained_model.TrainedModel.sha256`."""
    started: str
    """Start of the command that predicted the case; see :func:`.manifest.format_time`."""
    finished: str


@dataclass(kw_only=True)
class Predictor:
    """Model with its settings, and the cases that it could not predict."""

    model: TrainedModel
    device: str = "cpu"
    """Value of nnU-Net's ``-device``."""
    mirroring: bool = True
    failed: dict[str, str] = field(default_factory=dict)
    """Case → hash of its inputs, of cases that failed; they are not tried again."""

    def predict(self, folders: RunFolders) -> None:
        """Predict all cases of an intake that have no prediction, or that of other inputs.

        Args:
            folders: Folders of the run. Predictions and results of cases that changed or are no
                longer taken are removed first.

        Raises:
            CommandFailed: If cases failed, after all others are predicted.
            Interrupted: On a stop signal, after nnU-Net has stopped.
        """
        sources = {source.case: source for source in read_sources(folders.intake)}
        inputs = {case: self._inputs(source_file(folders.intake, case)) for case in sources}
        self._collect(folders, sources, inputs)
        _withdraw_outdated_predictions(folders, sources, inputs)
        pending = [case for case in sources if not _is_predicted(folders, sources[case], inputs[case])]
        if skipped := [case for case in pending if self.failed.get(case) == inputs[case]]:
            log.info("%s failed before and not tried again", pluralize(len(skipped), "case"))
            pending = [case for case in pending if case not in skipped]
        if not pending:
            return
        log.info("predicting %s with %s", pluralize(len(pending), "case"), self.model.name)

        def run(cases: Sequence[str]) -> None:
            self._run(folders, {case: sources[case] for case in cases}, inputs)
            if missing := [case for case in cases if not _is_predicted(folders, sources[case], inputs[case])]:
                raise CommandFailed(f"nnU-Net wrote no prediction of {', '.join(missing)} (see {folders.log})")

        try:
            return run(pending)
        except Interrupted:
            raise
        except (CommandFailed, InputError) as error:
            if len(pending) == 1:
                self.failed[pending[0]] = inputs[pending[0]]
                raise
            log.warning("predicting one case at a time after a failure: %s", error)
        remaining = [case for case in pending if not _is_predicted(folders, sources[case], inputs[case])]
        outcome = run_batch({case: [case] for case in remaining}, run, noun="case")
        self.failed |= {case: inputs[case] for case in outcome.failed}
        outcome.require_all("predictions", see=folders.log)

    def _inputs(self, source_record: Path) -> str:
        settings = [self.model.fingerprint, self.model.folds, self.mirroring]
        return fingerprint([file_sha256(source_record), settings], length=64)

    def _run(self, folders: RunFolders, sources: Mapping[str, CaseSource], inputs: Mapping[str, str]) -> None:
        """Predict cases by nnU-Net's own command, and collect what it has written."""
        shutil.rmtree(folders.unfinished, ignore_errors=True)
        images, labels = folders.unfinished / "images", folders.unfinished / "labels"
        for part in (images, labels):
            part.mkdir(parents=True)
        for source in sources.values():
            for channel in source.channels:
                path = image_file(folders.intake, source.case, channel.channel, source.file_ending)
                if not path.is_file():
                    raise InputError(f"{path} is missing; run the same command again with its source in SRC")
                _link_or_copy(path, images / path.name)
        started = {"started": format_time(), "inputs": {case: inputs[case] for case in sources}}
        write_text(folders.unfinished / "started.json", json.dumps(started))
        processes = str(min(_MAX_PROCESSES, available_cores(), len(sources)))
        command = [
            *("nnUNetv2_predict_from_modelfolder", "-i", str(images), "-o", str(labels)),
            *("-m", str(self.model.folder), "-f", *self.model.folds, "-chk", CHECKPOINT),
            *("-device", self.device, "-npp", processes, "-nps", processes),
            *(() if self.mirroring else ("--disable_tta",)),
        ]
        try:
            run_child(command, os.environ, folders.log)
        finally:
            self._collect(folders, sources, inputs)

    def _collect(self, folders: RunFolders, sources: Mapping[str, CaseSource], inputs: Mapping[str, str]) -> None:
        """Take over the complete predictions of the last command, which may have been killed."""
        try:
            started = json.loads((folders.unfinished / "started.json").read_text(encoding="utf-8"))
            current = {case for case, made_from in started["inputs"].items() if made_from == inputs.get(case)}
        except (OSError, ValueError, KeyError):
            current = set()
        for case in sorted(current & sources.keys()):
            written = folders.unfinished / "labels" / f"{case}{sources[case].file_ending}"
            if not _is_complete(written):
                continue
            with atomic_write(prediction_file(folders, sources[case])) as partial:
                shutil.copyfile(written, partial)
            record = PredictionRecord(
                case=case,
                inputs=inputs[case],
                model=self.model.sha256,
                started=started["started"],
                finished=format_time(written.stat().st_mtime),
            )
            write_text(_record_file(folders, case), json.dumps({"format": _FORMAT, **asdict(record)}, indent=1) + "\n")
        shutil.rmtree(folders.unfinished, ignore_errors=True)


def prediction_file(folders: RunFolders, source: CaseSource) -> Path:
    """Return the path of a prediction: ``DST/predictions/CASE.nii.gz``."""
    return folders.predictions / f"{source.case}{source.file_ending}"


def read_prediction_record(folders: RunFolders, case: str) -> PredictionRecord | None:
    """Read the record of a prediction; return None if it is missing or invalid."""
    try:
        stored = json.loads(_record_file(folders, case).read_text(encoding="utf-8"))
        return PredictionRecord(**stored) if stored.pop("format") == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_predicted(folders: RunFolders, source: CaseSource, inputs: str) -> bool:
    record = read_prediction_record(folders, source.case)
    return record is not None and record.inputs == inputs and prediction_file(folders, source).is_file()


def _withdraw_outdated_predictions(
    folders: RunFolders, sources: Mapping[str, CaseSource], inputs: Mapping[str, str]
) -> None:
    """Remove predictions of other inputs, and what was delivered of them."""
    predicted = {path.name.partition(".")[0]: path for path in folders.predictions.glob("case_*")}
    delivered = {path.stem for path in (folders.results / DELIVERED).glob("*.json")}
    for case in sorted(predicted.keys() | delivered):
        if case in sources and _is_predicted(folders, sources[case], inputs[case]):
            continue
        log.info("%s has changed or is no longer taken: its earlier results are removed", case)
        path = predicted.get(case, folders.predictions / case)
        _record_file(folders, case).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        withdraw_outdated(folders.results, case, path)


def _record_file(folders: RunFolders, case: str) -> Path:
    return folders.records / f"{case}.json"


def _is_complete(path: Path) -> bool:
    """Return whether nnU-Net has written a file to its end."""
    try:
        check_complete(path)
        read_image(path, "prediction")
    except (Incomplete, InputError, OSError):
        return False
    return True


def _link_or_copy(path: Path, to: Path) -> None:
    with suppress(OSError, NotImplementedError):  # a disk without hard links
        os.link(path, to)
        return
    shutil.copyfile(path, to)
