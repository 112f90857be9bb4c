"""Conversion of clinical folders to nnU-Net inputs: scan, choose, convert, list."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from nnunet_anatomix.clinical.cases import read_source, source_file
from nnunet_anatomix.clinical.intake.choice import CaseChoice, choose
from nnunet_anatomix.clinical.intake.conversion import (
    CONVERTING,
    CaseJob,
    ConversionResult,
    convert,
    find_orphan_cases,
    is_converted,
    remove_case,
)
from nnunet_anatomix.clinical.intake.manifest_entries import describe_intake
from nnunet_anatomix.clinical.intake.mapping import ChannelMap, check_channels, check_uids, parse_maps, set_units
from nnunet_anatomix.clinical.intake.needs import Needs, find_needs
from nnunet_anatomix.clinical.intake.numbering import Register, case_digest, case_name
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.table import NOT_TAKEN, TAKEN, WAITING, SeriesDecision, format_table, write_table
from nnunet_anatomix.clinical.manifest import format_time, identify_model, record_run
from nnunet_anatomix.clinical.phrases import pluralize
from nnunet_anatomix.clinical.walk import Stray
from pretraining.common.child import hides_progress_bars
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder
from pretraining.common.processes import ProcessLost, imap_unordered

log = logging.getLogger(__name__)

_MAX_LOGGED_CASES = 20
"""Number of refused cases in the log; the table lists all of them."""


Scanned = tuple[Sequence[Series], Sequence[Stray]]
"""Series of a tree, and its files that belong to none."""


class NothingTaken(CommandFailed):
    """An intake without any case; ``intake.csv`` gives the reasons."""


@dataclass(frozen=True)
class IntakeResult:
    """Result of an intake."""

    table: str
    """Text of ``intake.csv``; it contains folders, descriptions and UIDs."""
    cases: tuple[str, ...]
    """Names of the cases taken."""


def intake(
    source: Path,
    destination: Path,
    model: str,
    *,
    maps: Sequence[str] = (),
    workers: int = 1,
    originals_only: bool = False,
    dry_run: bool = False,
    scanned: Scanned | None = None,
) -> IntakeResult:
    """Convert the scans that a model needs from a tree of files.

    Args:
        source: Any tree with DICOM, NIfTI, NRRD or MetaImage files; never written to.
        destination: New or empty folder, or that of an earlier intake of ``source``. In the latter
            case only missing or changed cases are converted, and cases keep their numbers. It
            receives ``images``, ``sources`` (source records), ``intake.csv``, ``intake.json`` and
            ``manifests``.
        model: Model or dataset; see
            :func:`~nnunet_anatomix.clinical.intake.needs.find_needs`.
        maps: Channel maps; see :func:`~nnunet_anatomix.clinical.intake.mapping.parse_maps`.
        workers: Number of processes.
        originals_only: True to take no lossy compressed CT, and none whose ImageType is not that
            of an original.
        dry_run: True to write nothing.
        scanned: Series and other files of ``source``, if they are known. Default: search for them.

    Returns:
        The table, and the cases taken.

    Raises:
        InputError: For folders inside each other, an unknown model, wrong maps, or a destination
            with other content.
        NothingTaken: If no case can be taken.
        CommandFailed: If the disk is full.
        InUse: If another intake writes into ``destination``.

    Notes:
        A case is one study of one patient (PatientID and StudyInstanceUID), or one image file per
        channel. Log messages identify cases and series by number only.
    """
    root, destination = _resolve_disjoint(source, destination)
    needs = find_needs(model)
    channel_maps = parse_maps(maps, needs.channels)
    check_channels(channel_maps, needs.channels)
    channels = set_units(needs.channels, channel_maps)
    needs = replace(needs, channels=tuple(replace(each, originals_only=originals_only) for each in channels))
    if dry_run:
        return _intake(root, destination, needs, channel_maps, scanned, maps=maps, workers=workers, dry_run=True)
    try_folder(destination, "DST")
    with hold_lock(destination):  # lock before reading the case numbers, release after the last write
        return _intake(root, destination, needs, channel_maps, scanned, maps=maps, workers=workers, dry_run=False)


def _intake(
    root: Path,
    destination: Path,
    needs: Needs,
    channel_maps: dict[int, ChannelMap],
    scanned: Scanned | None,
    *,
    maps: Sequence[str],
    workers: int,
    dry_run: bool,
) -> IntakeResult:
    started = format_time()
    register = Register.open(destination, root, needs)
    series, strays = scanned or scan_tree(root, workers=workers)
    found = dict(enumerate(series, 1))
    check_uids(channel_maps, series)
    choices = choose(found, needs.channels, channel_maps)
    digests = {
        case_digest(found[choice.series[0]].kind, choice.key): choice
        for choice in choices
        if choice.has_candidates or case_digest(found[choice.series[0]].kind, choice.key) in register.numbers
    }
    register.assign(digests)
    cases = {case_name(register.numbers[digest]): choice for digest, choice in digests.items()}
    decided = _decide(choices, cases)
    _log_summary(found, strays, cases)
    if not dry_run:
        register.write(destination)
        write_table(destination, format_table(found, decided, strays))
        jobs = [
            CaseJob(
                root=root,
                destination=destination,
                case=case,
                file_ending=needs.file_ending,
                channels=needs.channels,
                series=tuple(found[number] for number in choice.chosen),
                resampled=choice.resampled,
            )
            for case, choice in cases.items()
            if choice.chosen
        ]
        _remove_outdated_cases(destination, cases)
        model, settings = identify_model(Path(needs.model), weights=False), {"map": list(maps)}
        with record_run(destination, "intake", model=model, settings=settings, started=started) as manifest:
            done: set[str] = set()
            try:
                _convert_all(jobs, cases, decided, workers, done)
            finally:
                shutil.rmtree(destination / CONVERTING, ignore_errors=True)
                write_table(destination, format_table(found, decided, strays))
                describe_intake(manifest, destination, found, decided, cases, done=done)
    taken = tuple(
        sorted(
            {row.case for row in decided.values() if row.taken in (TAKEN, WAITING)}, key=lambda case: (len(case), case)
        )
    )
    if not taken and not dry_run:
        raise NothingTaken(
            f"none of {pluralize(len(found), 'scan')} found can be used; {destination / 'intake.csv'} says why"
        )
    return IntakeResult(format_table(found, decided, strays), taken)


def _resolve_disjoint(source: Path, destination: Path) -> tuple[Path, Path]:
    """Return both paths resolved; raise ``InputError`` if one contains the other."""
    if not source.is_dir():
        raise InputError(f"SRC: expected a folder, found {'a file' if source.exists() else 'nothing'} at {source}")
    root, destination = source.resolve(), destination.resolve()
    if destination.is_relative_to(root) or root.is_relative_to(destination):
        raise InputError(
            f"SRC and DST overlap ({source} and {destination}); SRC is never written to: choose a DST elsewhere"
        )
    return root, destination


def _decide(choices: Sequence[CaseChoice], cases: dict[str, CaseChoice]) -> dict[int, SeriesDecision]:
    names = {id(choice): case for case, choice in cases.items()}
    rows = {}
    for choice in choices:
        for number in choice.series:
            channel = choice.channel_of.get(number)
            rows[number] = SeriesDecision(
                taken=NOT_TAKEN if channel is None else WAITING,
                case=names.get(id(choice), ""),
                channel="" if channel is None else str(channel),
                reason=choice.reasons.get(number, ""),
            )
    return dict(sorted(rows.items()))


def _log_summary(found: dict[int, Series], strays: Sequence[Stray], cases: dict[str, CaseChoice]) -> None:
    unsound = sum(bool(series.problem) for series in found.values())
    taken = sum(bool(choice.chosen) for choice in cases.values())
    log.info(
        "%s found, %d of them unusable, and %s outside any scan; %s, %d of them complete",
        pluralize(len(found), "scan"),
        unsound,
        pluralize(len(strays), "file"),
        pluralize(len(cases), "case"),
        taken,
    )
    refused = [(case, choice) for case, choice in cases.items() if not choice.chosen]
    for case, choice in refused[:_MAX_LOGGED_CASES]:
        log.warning("%s is not taken: %s", case, choice.reason)
    if len(refused) > _MAX_LOGGED_CASES:
        log.warning("and %d more", len(refused) - _MAX_LOGGED_CASES)


def _remove_outdated_cases(destination: Path, cases: dict[str, CaseChoice]) -> None:
    """Remove the files of cases that are no longer taken; keep those that SRC no longer holds."""
    for case, choice in cases.items():
        if not choice.chosen and source_file(destination, case).exists():
            log.warning("%s of an earlier run is removed: it is no longer taken", case)
            remove_case(destination, case)
    if orphans := find_orphan_cases(destination, list(cases)):
        log.warning(
            "%s of earlier runs, no longer in SRC, kept in %s: %s",
            pluralize(len(orphans), "case"),
            destination,
            ", ".join(orphans),
        )


def _convert_all(
    jobs: Sequence[CaseJob],
    cases: dict[str, CaseChoice],
    decided: dict[int, SeriesDecision],
    workers: int,
    done: set[str],
) -> None:
    """Convert all cases that are not converted yet, and add them to ``done`` one by one."""
    pending = []
    for job in jobs:
        if is_converted(job):
            record = read_source(source_file(job.destination, job.case))
            notes = tuple(channel.note for channel in record.channels)
            _record_result(cases[job.case], decided, ConversionResult(notes=notes))
        else:
            pending.append(job)
    if len(pending) < len(jobs):
        log.info("%s already converted", pluralize(len(jobs) - len(pending), "case"))
    processes = min(workers, len(pending)) if len(pending) > 2 else 1
    try:
        for job, converted in tqdm(
            imap_unordered(convert, pending, processes=processes),
            total=len(pending),
            desc="converting",
            unit="case",
            leave=False,
            disable=hides_progress_bars(),
        ):
            _record_result(cases[job.case], decided, converted)
            done.add(job.case)
            if converted.reason:
                log.warning("%s is not taken: channel %d: %s", job.case, converted.channel, converted.reason)
    except ProcessLost as lost:
        names = ", ".join(job.case for job in lost.items)
        raise CommandFailed(
            f"a process was killed while converting {names}, possibly for lack of memory; use --workers 1"
        ) from None


def _record_result(choice: CaseChoice, decided: dict[int, SeriesDecision], converted: ConversionResult) -> None:
    for channel, number in enumerate(choice.chosen):
        row = decided[number]
        if not converted.reason:
            row.taken = TAKEN
            row.reason = "; ".join(filter(None, (row.reason, converted.notes[channel])))
        else:
            prefix = f"case not taken: channel {converted.channel}: " if channel != converted.channel else ""
            row.taken, row.channel, row.reason = NOT_TAKEN, "", f"{prefix}{converted.reason}"
