"""Entries of delivered cases in the run manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from nnunet_anatomix.clinical.cases import read_source, source_file
from nnunet_anatomix.clinical.delivery.records import read_record
from nnunet_anatomix.clinical.manifest import CaseEntry, describe_inputs
from pretraining.common.errors import InputError


def list_cases(
    cases: Iterable[str], intake: Path, destination: Path, *, done: set[str], failed: Mapping[str, str]
) -> list[CaseEntry]:
    """Return the entries of all cases of a run.

    Args:
        cases: Names of the cases.
        intake: Folder that ``intake`` wrote.
        destination: Folder of the delivery, DST.
        done: Cases that this run delivered.
        failed: Case → reason why this run could not deliver it.
    """
    return [_describe_case(case, intake, destination, done=done, failed=failed) for case in cases]


def _describe_case(
    case: str, intake: Path, destination: Path, *, done: set[str], failed: Mapping[str, str]
) -> CaseEntry:
    entry = CaseEntry(case=case, status="failed", reason=failed.get(case, ""))
    with suppress(InputError):  # its reason is in ``failed``
        entry.inputs = describe_inputs(read_source(source_file(intake, case)))
    record = read_record(destination, case)
    if record is not None:
        entry.outputs = {
            file: {"bytes": size}
            | ({"sop_instance_uid": record.instance_uids[file]} if file in record.instance_uids else {})
            for file, size in record.files.items()
        }
        entry.finished = record.delivered_at
    if case not in failed:
        entry.status = "done" if case in done else "unchanged" if record is not None else "not reached"
        entry.reason = "; ".join(record.notes) if record is not None else ""
    return entry
