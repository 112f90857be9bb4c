"""Propagated labels of unlabelled scans for every fold, from its training cases alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nnunet_anatomix.finetuning.splits import SPLITS_FILE, Fold, automatic_splits, update_splits
from nnunet_anatomix.finetuning.unlabelled.folder import set_name
from nnunet_anatomix.propagation.folder import (
    RECORDS,
    FolderSettings,
    describe_result,
    read_record,
    register_atlases,
    write_case,
)
from nnunet_anatomix.propagation.labelled_scans import LabelledScans, read_channels
from nnunet_anatomix.propagation.propagate import fuse_atlases
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_sha256, file_state, fingerprint

log = logging.getLogger(__name__)

ATLASES = "atlases"
"""Sub-folder of a set: propagated labels, their agreement, and records."""


def label_sets(preprocessed: Path, cases: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the labelled cases that each fold trains on.

    Args:
        preprocessed: Preprocessed folder of the dataset; its folds are used if it has any.
        cases: All labelled cases.

    Returns:
        Name of the set → cases, sorted; the set ``all`` first.

    Raises:
        InputError: If the folds are damaged, or have cases that do not exist.
    """
    cases = sorted(cases)
    if note := update_splits(preprocessed, cases):
        log.info("%s", note)
    path = preprocessed / SPLITS_FILE
    folds: list[Fold] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else automatic_splits(cases)
    trained = {set_name(number): tuple(sorted(fold["train"])) for number, fold in enumerate(folds)}
    return {set_name("all"): tuple(cases), **trained}


def refuse_labelled(scans: LabelledScans, inputs: Mapping[str, list[Path]]) -> None:
    """Refuse an unlabelled scan that is a labelled case.

    Args:
        scans: Labelled scans.
        inputs: Unlabelled scan → its channels.

    Raises:
        InputError: If the first channel of a scan has the content of a labelled one. Left-out scans
            would no longer be unseen.
    """
    sizes: dict[int, list[Path]] = {}
    for name in scans.names:
        file = scans.files(name)[0]
        sizes.setdefault(file.stat().st_size, []).append(file)
    for files in inputs.values():
        for labelled in sizes.get(files[0].stat().st_size, []):
            if file_sha256(labelled) == file_sha256(files[0]):
                raise InputError(
                    f"--unlabelled: expected scans that are not labelled, found {files[0].name}, whose content is that "
                    f"of {labelled.name} in {labelled.parent.name}; remove it from {files[0].parent}"
                )


def propagate_sets(
    scans: LabelledScans,
    inputs: Mapping[str, list[Path]],
    folder: Path,
    sets: Mapping[str, Sequence[str]],
    settings: FolderSettings,
) -> dict[str, dict[str, dict]]:
    """Label every scan once per set; each labelled scan is registered to it once.

    Args:
        scans: Labelled scans.
        inputs: Unlabelled scan → its channels.
        folder: Folder of the unlabelled scans; finished scans with the same inputs are kept.
        sets: Set → labelled cases that vote.
        settings: Settings of all scans.

    Returns:
        Set → scan → what is recorded of it.

    Raises:
        CommandFailed: If scans failed, after all others.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    ending = scans.description.file_ending
    labelled = [file_state(file) for name in scans.names for file in scans.files(name)]

    def digest(case: str) -> str:
        return fingerprint([list(map(file_state, inputs[case])), labelled, settings.identity, sets])

    def is_done(case: str) -> bool:
        records = [read_record(folder / name / ATLASES, case) for name in sets]
        return all(record is not None and record["fingerprint"] == digest(case) for record in records)

    def work(case: str) -> None:
        channels = read_channels(inputs[case], case)
        config, registered = register_atlases(scans, case, channels, settings)
        for name, voters in sets.items():
            out = folder / name / ATLASES
            chosen = [atlas for atlas in registered if atlas.name in voters]
            result = fuse_atlases(channels[0], chosen, config, ignore=scans.ignore)
            write_case(out, case, ending, channels[0], result)
            record = {"fingerprint": digest(case), **describe_result(scans, result)}
            write_text(out / RECORDS / f"{case}.json", json.dumps(record, indent=1) + "\n")

    outcome = run_batch({case: case for case in inputs}, work, noun="scan", is_done=is_done, failures=folder)
    outcome.require_all("unlabelled scans", see=folder / FAILURES)
    return {name: {case: read_record(folder / name / ATLASES, case) or {} for case in inputs} for name in sets}
