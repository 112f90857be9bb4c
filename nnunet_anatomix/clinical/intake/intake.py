"""Clinical folders to nnU-Net's inputs: scan, choose, convert, and say of every series what became of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnunet_anatomix.clinical.cases import source_file
from nnunet_anatomix.clinical.intake.choice import CaseChoice, choose
from nnunet_anatomix.clinical.intake.conversion import (
    CONVERTING,
    CaseJob,
    Converted,
    convert,
    is_converted,
    left_over,
    remove_case,
)
from nnunet_anatomix.clinical.intake.mapping import ChannelMap, check_channels, check_uids, parse_maps
from nnunet_anatomix.clinical.intake.needs import Needs, find_needs
from nnunet_anatomix.clinical.intake.numbering import Register, case_digest, case_name
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.table import NOT_TAKEN, TAKEN, WAITING, Row, table_text, write_table
from nnunet_anatomix.clinical.phrases import count_phrase
from nnunet_anatomix.clinical.walk import Stray
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder
from pretraining.common.processes import ProcessLost, imap_unordered

log = logging.getLogger(__name__)

_SHOWN = 20
"""Cases that are not taken, in the log; the table has all of them."""


@dataclass(frozen=True)
class Intake:
    """What came of it."""

    table: str
    """CSV; names folders, descriptions and UIDs."""
    cases: tuple[str, ...]
    """That are taken."""


def intake(
    source: Path, destination: Path, model: str, *, maps: Sequence[str] = (), workers: int = 1, dry_run: bool = False
) -> Intake:
    """Convert what a model needs from a tree of scans.

    Args:
        source: Any tree with DICOM, NIfTI, NRRD or MetaImage files; never written to.
        destination: New, empty, or of an earlier intake of ``source``: then only what is missing or
            has changed is converted, and cases keep their numbers. Gets ``images``, ``sources``
            (links to the files that each case was made from), ``intake.csv`` and ``intake.json``.
        model: See :func:`~nnunet_anatomix.clinical.intake.needs.find_needs`.
        maps: See :func:`~nnunet_anatomix.clinical.intake.mapping.parse_maps`.
        workers: Processes.
        dry_run: Write nothing.

    Raises:
        InputError: For folders that lie in each other, an unknown model, wrong maps, or a
            destination with something else in it.
        CommandFailed: If no case could be taken, or the disk is full.
        InUse: If another intake writes into ``destination``.

    Notes:
        A case is one study of one patient (PatientID and StudyInstanceUID), or one image file with
        its channels. Log messages name cases and series by number alone.
    """
    root, destination = _apart(source, destination)
    needs = find_needs(model)
    given = parse_maps(maps, needs.channels)
    check_channels(given, needs.channels)
    if dry_run:
        return _intake(root, destination, needs, given, workers=workers, dry_run=True)
    try_folder(destination, "DST")
    with hold_lock(destination):  # from before the numbers are read until all are written
        return _intake(root, destination, needs, given, workers=workers, dry_run=False)


def _intake(
    root: Path, destination: Path, needs: Needs, given: dict[int, ChannelMap], *, workers: int, dry_run: bool
) -> Intake:
    register = Register.open(destination, root, needs)
    series, strays = scan_tree(root, workers=workers)
    found = dict(enumerate(series, 1))
    check_uids(given, series)
    choices = choose(found, needs.channels, given)
    digests = {
        case_digest(found[choice.series[0]].kind, choice.key): choice
        for choice in choices
        if choice.has_candidates or case_digest(found[choice.series[0]].kind, choice.key) in register.numbers
    }
    register.give(digests)
    cases = {case_name(register.numbers[digest]): choice for digest, choice in digests.items()}
    decided = _decisions(choices, cases)
    _report(found, strays, cases)
    if not dry_run:
        register.write(destination)
        write_table(destination, table_text(found, decided, strays))
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
        _clear(destination, cases)
        try:
            _convert_all(jobs, cases, decided, workers)
        finally:
            shutil.rmtree(destination / CONVERTING, ignore_errors=True)
            write_table(destination, table_text(found, decided, strays))
    taken = tuple(
        sorted(
            {row.case for row in decided.values() if row.taken in (TAKEN, WAITING)}, key=lambda case: (len(case), case)
        )
    )
    if not taken and not dry_run:
        raise CommandFailed(
            f"none of {count_phrase(len(found), 'scan')} found can be used; {destination / 'intake.csv'} says why"
        )
    return Intake(table_text(found, decided, strays), taken)


def _apart(source: Path, destination: Path) -> tuple[Path, Path]:
    """Both resolved, neither in the other."""
    if not source.is_dir():
        raise InputError(f"SRC: expected a folder, found {'a file' if source.exists() else 'nothing'} at {source}")
    root, destination = source.resolve(), destination.resolve()
    if destination.is_relative_to(root) or root.is_relative_to(destination):
        raise InputError(
            f"SRC and DST lie in each other ({source} and {destination}); SRC is never written to: name a DST elsewhere"
        )
    return root, destination


def _decisions(choices: Sequence[CaseChoice], cases: dict[str, CaseChoice]) -> dict[int, Row]:
    names = {id(choice): case for case, choice in cases.items()}
    rows = {}
    for choice in choices:
        for number in choice.series:
            channel = choice.channel_of.get(number)
            rows[number] = Row(
                taken=NOT_TAKEN if channel is None else WAITING,
                case=names.get(id(choice), ""),
                channel="" if channel is None else str(channel),
                reason=choice.said.get(number, ""),
            )
    return dict(sorted(rows.items()))


def _report(found: dict[int, Series], strays: Sequence[Stray], cases: dict[str, CaseChoice]) -> None:
    unsound = sum(bool(series.problem) for series in found.values())
    taken = sum(bool(choice.chosen) for choice in cases.values())
    log.info(
        "%s found, %d of them unusable, and %s that belong to none; %s, %d of them complete",
        count_phrase(len(found), "scan"),
        unsound,
        count_phrase(len(strays), "file"),
        count_phrase(len(cases), "case"),
        taken,
    )
    refused = [(case, choice) for case, choice in cases.items() if not choice.chosen]
    for case, choice in refused[:_SHOWN]:
        log.warning("%s is not taken: %s", case, choice.reason)
    if len(refused) > _SHOWN:
        log.warning("and %d more", len(refused) - _SHOWN)


def _clear(destination: Path, cases: dict[str, CaseChoice]) -> None:
    """Remove what earlier runs made of cases that are not taken any more; what SRC does not hold any more stays."""
    for case, choice in cases.items():
        if not choice.chosen and source_file(destination, case).exists():
            log.warning("%s of an earlier run is removed: it is not taken any more", case)
            remove_case(destination, case)
    if gone := left_over(destination, list(cases)):
        log.warning(
            "%s of earlier runs, not in SRC any more, stay in %s: %s",
            count_phrase(len(gone), "case"),
            destination,
            ", ".join(gone),
        )


def _convert_all(jobs: Sequence[CaseJob], cases: dict[str, CaseChoice], decided: dict[int, Row], workers: int) -> None:
    waiting = []
    for job in jobs:
        if is_converted(job):
            _note(cases[job.case], decided, Converted())
        else:
            waiting.append(job)
    if len(waiting) < len(jobs):
        log.info("%s converted before", count_phrase(len(jobs) - len(waiting), "case"))
    processes = min(workers, len(waiting)) if len(waiting) > 2 else 1
    try:
        for job, converted in tqdm(
            imap_unordered(convert, waiting, processes=processes),
            total=len(waiting),
            desc="converting",
            unit="case",
            leave=False,
            disable=None,
        ):
            _note(cases[job.case], decided, converted)
            if converted.reason:
                log.warning("%s is not taken: channel %d: %s", job.case, converted.channel, converted.reason)
    except ProcessLost as lost:
        names = ", ".join(job.case for job in lost.items)
        raise CommandFailed(
            f"a process was ended from outside at {names}, perhaps for lack of memory; try --workers 1"
        ) from None


def _note(choice: CaseChoice, decided: dict[int, Row], converted: Converted) -> None:
    for channel, number in enumerate(choice.chosen):
        row = decided[number]
        if not converted.reason:
            row.taken = TAKEN
            if converted.note and channel:
                row.reason = "; ".join(filter(None, (row.reason, converted.note)))
        else:
            about = f"case not taken: channel {converted.channel}: " if channel != converted.channel else ""
            row.taken, row.channel, row.reason = NOT_TAKEN, "", f"{about}{converted.reason}"
