"""Record of names and contents of cases, which shows scans that were added, changed or removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretraining.common.atomic import write_text
from pretraining.common.fingerprint import file_sha256, fingerprint

RECORD_FILE = "anatomix_cases.json"
"""File beside plans, or in the folder of a study: the cases that it was made with."""
_NAMED = 3
"""Number of cases that a message names."""

CaseRecord = dict[str, dict[str, list[Any]]]
"""Case → number and name of a file → size, modification time in ns, SHA-256."""


def case_files(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Path]]:
    """Return the files of each case: channels, then labels.

    Args:
        cases: ``images`` and ``label`` of each case, as in
            :class:`~nnunet_anatomix.finetuning.dataset.RawDataset`.
    """
    return {case: [*map(Path, files["images"]), Path(files["label"])] for case, files in cases.items()}


def record_cases(files: Mapping[str, Sequence[Path]], known: CaseRecord | None = None) -> CaseRecord:
    """Record the files of cases.

    Args:
        files: Case → its files, which exist.
        known: Earlier record. A file of the same size and modification time is not read again.
    """
    record: CaseRecord = {}
    for case, paths in sorted(files.items()):
        before = (known or {}).get(case, {})
        record[case] = {}
        for number, path in enumerate(paths):
            status = path.stat()
            state = [status.st_size, status.st_mtime_ns]
            name = f"{number} {path.name}"  # files of a case may have one name in several folders
            earlier = before.get(name, [])
            record[case][name] = [*state, earlier[2] if earlier[:2] == state else file_sha256(path)]
    return record


def digest(record: CaseRecord) -> str:
    """Return a digest of names and contents; a copy of the files has the same."""
    return fingerprint(sorted((case, _contents(files)) for case, files in record.items()))


def describe_change(before: CaseRecord, now: CaseRecord) -> str:
    """Name the cases that were added, changed or removed.

    Args:
        before: Earlier record.
        now: Present record.

    Returns:
        Text such as ``added: a, b; changed: c``; empty if names and contents are the same.
    """
    both = before.keys() & now.keys()
    kinds = {
        "added": now.keys() - before.keys(),
        "changed": {case for case in both if _contents(before[case]) != _contents(now[case])},
        "removed": before.keys() - now.keys(),
    }
    return "; ".join(f"{kind}: {name_some(cases)}" for kind, cases in kinds.items() if cases)


def name_some(cases: Sequence[str] | set[str]) -> str:
    """Return the first few names of a set of cases, sorted."""
    names = sorted(cases)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def read_record(folder: Path) -> CaseRecord:
    """Read the record of a folder; empty if there is none, or none that can be read."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return {case: {name: list(state) for name, state in files.items()} for case, files in record.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_record(folder: Path, record: CaseRecord) -> None:
    """Write the record of a folder."""
    write_text(folder / RECORD_FILE, json.dumps(record, indent=1) + "\n")


def _contents(files: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any]]:
    return sorted((name, state[2]) for name, state in files.items())
