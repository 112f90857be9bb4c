"""Entries of an intake in the run manifest: every series and case, with the decision and why."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nnunet_anatomix.clinical.cases import image_file, read_source, source_file
from nnunet_anatomix.clinical.intake.choice import CaseChoice
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.table import TAKEN, SeriesDecision
from nnunet_anatomix.clinical.manifest import CaseEntry, Manifest, describe_inputs
from pretraining.common.errors import InputError


def describe_intake(
    manifest: Manifest,
    destination: Path,
    found: Mapping[int, Series],
    decided: Mapping[int, SeriesDecision],
    cases: Mapping[str, CaseChoice],
    *,
    done: set[str],
) -> None:
    """Fill the manifest of an intake.

    Args:
        manifest: Manifest to fill.
        destination: Folder of the intake, DST.
        found: Series number → series.
        decided: Series number → decision.
        cases: Case → choice of its series.
        done: Cases that this run converted.
    """
    manifest.series = [
        {
            "series": number,
            "kind": series.kind,
            "modality": series.modality,
            "study_uid": series.study_uid,
            "series_uid": series.series_uid,
            "files": len(series.files),
            "taken": decided[number].taken,
            "case": decided[number].case,
            "channel": decided[number].channel,
            "reason": decided[number].reason,
        }
        for number, series in found.items()
    ]
    manifest.cases = [_describe_case(case, choice, destination, decided, done) for case, choice in cases.items()]


def _describe_case(
    case: str, choice: CaseChoice, destination: Path, decided: Mapping[int, SeriesDecision], done: set[str]
) -> CaseEntry:
    chosen = [decided[number] for number in choice.chosen]
    if not chosen or any(row.taken != TAKEN for row in chosen):
        reason = choice.reason or "; ".join(dict.fromkeys(row.reason for row in chosen if row.reason))
        return CaseEntry(case=case, status="not taken", reason=reason)
    entry = CaseEntry(case=case, status="done" if case in done else "unchanged")
    with suppress(InputError):  # removed meanwhile: the case is listed without its inputs
        source = read_source(source_file(destination, case))
        entry.inputs = describe_inputs(source)
        images = [image_file(destination, case, channel.channel, source.file_ending) for channel in source.channels]
        entry.outputs = {
            image.relative_to(destination).as_posix(): {"bytes": channel.image_bytes}
            for image, channel in zip(images, source.channels, strict=True)
        }
    return entry
