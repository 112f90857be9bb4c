"""Run manifests: who made which results from which scans, with which weights, when, and why not.

Every run of ``intake`` or ``deliver`` that changes its folder writes one file,
``DST/manifests/TIME_COMMAND.json``, and none is overwritten. It holds UIDs, and reasons may quote
descriptions of series: like ``intake.csv``, it stays in the clinic.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnunet_anatomix.clinical.cases import CaseSource
from pretraining.common.atomic import write_text
from pretraining.common.fingerprint import file_sha256
from pretraining.common.versions import VERSION

MANIFESTS = "manifests"
_FORMAT = 1
_DISTRIBUTIONS = ("nnunetv2", "torch", "numpy", "SimpleITK", "pydicom", "highdicom", "scikit-image")
"""Installed software that a manifest lists with its versions."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Identity of a model by its files."""

    name: str = ""
    """Name of the training dataset, or of the folder."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Trainer, plans and configuration, as far as they are known."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File, relative to the model's folder → SHA-256: dataset.json, plans.json and checkpoints."""
    remark: str = ""
    """Reason why the weights are unknown, if they are."""


@dataclass(kw_only=True)
class CaseEntry:
    """Outcome of one case."""

    case: str
    status: str
    """``done`` by this run, ``unchanged`` since an earlier one, ``failed``, ``not taken``, or
    ``not reached`` by an interrupted run.
    """
    reason: str = ""
    """Reason of a failure, or remarks."""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """Per channel: name, study, series, number of files, and a hash of the files' states."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Path relative to DST → size in bytes and, of a DICOM object, its SOPInstanceUID."""
    finished: str = ""
    """Time when its last file was written: ISO 8601, UTC."""


@dataclass(kw_only=True)
class Manifest:
    """Content of a manifest; fill it during the run."""

    command: str
    settings: Mapping[str, Any]
    """Settings of the run: JSON types."""
    model: ModelFiles
    started: str
    finished: str = ""
    outcome: str = "running"
    """``running``, also after the process was killed; then ``completed`` or the error in a line."""
    cases: list[CaseEntry] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    """Of an intake: every series found, with the decision and its reason."""


@contextmanager
def record_run(
    destination: Path, command: str, *, model: ModelFiles, settings: Mapping[str, Any], started: str = ""
) -> Iterator[Manifest]:
    """Write the manifest of a run: when it starts, and again when it ends, however it ends.

    Hold the lock of ``destination`` meanwhile, so that two runs never choose one name.

    Args:
        destination: Folder of the results, DST.
        command: Name of the command, a part of the file's name.
        model: Identity of the model.
        settings: Settings of the run: JSON types.
        started: Value of :func:`format_time` when the run started. Default: now.

    Yields:
        The manifest, to be filled with cases.
    """
    manifest = Manifest(command=command, settings=settings, model=model, started=started or format_time())
    path = _new_file(destination, manifest)
    _write(path, manifest)
    try:
        yield manifest
    except BaseException as error:  # also a signal to stop
        manifest.outcome = " ".join(f"{type(error).__name__}: {error}".split())
        raise
    else:
        manifest.outcome = "completed"
    finally:
        manifest.finished = format_time()
        if manifest.outcome == "completed" and all(case.status == "unchanged" for case in manifest.cases):
            path.unlink(missing_ok=True)  # nothing changed: the manifests of earlier runs say everything
        else:
            _write(path, manifest)


def identify_model(
    folder: Path,
    *,
    name: str = "",
    parameters: Mapping[str, str] | None = None,
    checkpoints: Iterable[Path] = (),
    weights: bool = True,
) -> ModelFiles:
    """Identify a model by hashes of its files.

    Args:
        folder: Folder with ``dataset.json``.
        name: Name of the training dataset. Default: that of the folder.
        parameters: Trainer, plans and configuration, as far as they are known.
        checkpoints: Checkpoints that predict, in folders of ``folder``. Default: the final
            checkpoint of every fold, or all checkpoints of a fold that has no final one.
        weights: False for a command that uses no weights.
    """
    chosen = sorted(checkpoints)
    if weights and not chosen:
        chosen = [file for fold in sorted(folder.glob("fold_*")) for file in _checkpoints(fold)]
    files = [path for path in (folder / "dataset.json", folder / "plans.json") if path.is_file()]
    known = chosen or not weights
    return ModelFiles(
        name=name or folder.name,
        parameters=dict(parameters or {}),
        sha256={path.relative_to(folder).as_posix(): file_sha256(path) for path in (*files, *chosen)},
        remark="" if known else "weights unknown: no checkpoints here; give the folder of the trained model to -m",
    )


def describe_inputs(source: CaseSource) -> list[dict[str, Any]]:
    """Describe the series of a case, without paths and names."""
    return [
        {
            "channel": channel.channel,
            "name": channel.name,
            "kind": channel.kind,
            "study_uid": channel.study_uid,
            "series_uid": channel.series_uid,
            "files": len(channel.files),
            "fingerprint": channel.fingerprint,
        }
        for channel in source.channels
    ]


def format_time(seconds: float | None = None) -> str:
    """Format a time for records: ISO 8601, UTC, in milliseconds.

    Args:
        seconds: Time since 1970, such as that of a file. Default: now.
    """
    moment = datetime.now(timezone.utc) if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds")


def _checkpoints(fold: Path) -> list[Path]:
    final = fold / "checkpoint_final.pth"
    return [final] if final.is_file() else sorted(fold.glob("checkpoint_*.pth"))


def _new_file(destination: Path, manifest: Manifest) -> Path:
    """Return a path that does not exist: manifests of earlier runs are kept."""
    stem = f"{manifest.started[:19].replace('-', '').replace(':', '')}Z_{manifest.command}"
    path, number = destination / MANIFESTS / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}_{number}.json")
    return path


def _write(path: Path, manifest: Manifest) -> None:
    stored = {"format": _FORMAT, "software": _list_software(), **asdict(manifest)}
    write_text(path, json.dumps(stored, indent=1, ensure_ascii=False, default=str) + "\n")


def _list_software() -> dict[str, str]:
    found = {"nnunet-anatomix": VERSION, "python": platform.python_version(), "system": platform.platform()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
