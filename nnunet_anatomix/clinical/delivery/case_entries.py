"""Entries of delivered cases in the run manifest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from nnunet_anatomix.clinical.cases import read_source, source_file
from nnunet_anatomix.clinical.delivery.records import read_record
from nnunet_anatomix.clinical.manifest import CaseEntry, describe_inputs
from pretraining.common.errors import InputError


def list_cases(
    cases: Iterable[str],
    intake: Path,
    destination: Path,
    *,
    done: Collection[str],
    unchanged: Collection[str],
    failed: Mapping[str, str],
) -> list[CaseEntry]:
    """Return the entries of all cases of a run.

    Args:
        cases: Names of the cases.
        intake: Folder that ``intake`` wrote.
        destination: Folder of the delivery, DST.
        done: Cases that this run delivered.
        unchanged: Cases that an earlier run delivered with the same settings.
        failed: Case → reason why this run could not deliver it.
    """
    entries = []
    for case in cases:
        status = "failed" if case in failed else "done" if case in done else "not reached"
        if case in unchanged:
            status = "unchanged"
        entries.append(_describe_case(case, intake, destination, status, failed.get(case, "")))
    return entries


def _describe_case(case: str, intake: Path, destination: Path, status: str, reason: str) -> CaseEntry:
    entry = CaseEntry(case=case, status=status, reason=reason)
    with suppress(InputError):  # the reason of a failure tells this, too
        entry.inputs = describe_inputs(read_source(source_file(intake, case)))
    record = read_record(destination, case)
    if record is not None:
        entry.outputs = {
            file: {"bytes": size}
            | ({"sop_instance_uid": record.instance_uids[file]} if file in record.instance_uids else {})
            for file, size in record.files.items()
        }
        entry.finished = record.delivered_at
        entry.reason = reason or "; ".join(record.notes)
    return entry
