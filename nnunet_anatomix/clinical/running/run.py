"""Runs of all routes: once, or whenever a study arrives in an inbox."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_anatomix.clinical.intake.intake import NothingTaken, Scanned
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.network.addresses import DimseAddress
from nnunet_anatomix.clinical.network.dicomweb import Archive
from nnunet_anatomix.clinical.network.dimse import receive
from nnunet_anatomix.clinical.phrases import pluralize
from nnunet_anatomix.clinical.running.inbox import Inbox
from nnunet_anatomix.clinical.running.pipeline import Pipeline
from pretraining.common.batch import run_batch
from pretraining.common.errors import InputError, Interrupted
from pretraining.common.interruption import signal_of
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder

log = logging.getLogger(__name__)

MAX_POLL_S = 5.0
"""Longest time between two looks into the inbox, seconds."""
FETCH_S = 10.0
"""Time between two queries of an archive, seconds."""
RETRY_S = 300.0
"""Time after which failed deliveries and transfers are tried again, seconds."""


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """Sources of scans other than the files already in SRC."""

    archive: Archive | None = None
    """DICOMweb service to fetch from."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Studies to fetch, as attributes and values of QIDO."""
    listen: DimseAddress | None = None
    """Own address for C-STORE."""

    @property
    def writes_into_source(self) -> bool:
        """True if scans are received or fetched into SRC."""
        return self.archive is not None or self.listen is not None


def run(
    source: Path,
    destination: Path,
    pipelines: Sequence[Pipeline],
    *,
    incoming: Incoming | None = None,
    settle_s: float | None = None,
    workers: int = 1,
) -> None:
    """Take all scans of a folder through all routes.

    Args:
        source: Folder with scans, SRC. It is written to only by ``incoming``.
        destination: Folder for all results, DST.
        pipelines: Pipelines of the routes.
        incoming: Other systems that scans come from. Default: none.
        settle_s: Time without a change after which a study is complete, seconds; the call then does
            not return. Default: process the present files and return.
        workers: Number of processes that read headers.

    Raises:
        InputError: For wrong folders.
        NothingTaken: If no route can take a scan. Not raised while watching.
        CommandFailed: If cases failed, after all others are finished. Not raised while watching.
        InUse: If another process writes into the destination.
        Interrupted: On a stop signal. The same call resumes.
    """
    incoming = incoming or Incoming()
    if incoming.writes_into_source:
        try_folder(source, "SRC")
        source.mkdir(parents=True, exist_ok=True)
    if not source.is_dir():
        raise InputError(f"SRC: expected a folder, found {'a file' if source.exists() else 'nothing'} at {source}")
    root, destination = source.resolve(), destination.resolve()
    if destination.is_relative_to(root) or root.is_relative_to(destination):
        raise InputError(f"SRC and DST overlap ({source} and {destination}): choose a DST elsewhere")
    try_folder(destination, "DST")
    with hold_lock(destination), ExitStack() as services:
        try:
            if incoming.listen:
                services.enter_context(receive(incoming.listen, root))
            if settle_s is None:
                _fetch(incoming, root, destination)
                return _run_once(root, pipelines, scan_tree(root, workers=workers))
            _watch(root, destination, pipelines, incoming, Inbox(root, settle_s, workers=workers), settle_s)
        except KeyboardInterrupt as interrupt:
            raise Interrupted("stopped; run the same command again to resume", signal_of(interrupt)) from None


def _run_once(root: Path, pipelines: Sequence[Pipeline], scanned: Scanned) -> None:
    taken = []

    def work(pipeline: Pipeline) -> None:
        taken.append(pipeline.run(root, scanned))

    items = {pipeline.route.name or pipeline.predictor.model.name: pipeline for pipeline in pipelines}
    run_batch(items, work, noun="route").require_all("routes")
    if not any(taken):
        raise NothingTaken(
            f"no route takes any of {pluralize(len(scanned[0]), 'scan')} found; "
            f"{pipelines[0].folders.intake / 'intake.csv'} says why"
        )


def _watch(
    root: Path, destination: Path, pipelines: Sequence[Pipeline], incoming: Incoming, inbox: Inbox, settle_s: float
) -> None:
    """Run all routes whenever a study is complete, until a stop signal comes."""
    log.info("watching %s: a study is taken when nothing of it has come for %g s", root, settle_s)
    fetch_at, retry_at, arriving = time.monotonic(), None, 0
    while True:
        if incoming.archive and time.monotonic() >= fetch_at:
            _report_failure(_fetch, incoming, root, destination)
            fetch_at = time.monotonic() + FETCH_S
        started = time.monotonic()
        scanned = inbox.poll(again=retry_at is not None and time.monotonic() >= retry_at)
        poll_s = time.monotonic() - started
        if inbox.arriving != arriving:
            arriving = inbox.arriving
            log.info("%s arriving", "no study is" if not arriving else f"{pluralize(arriving, 'study folder')}")
        if scanned is not None:
            is_done = _report_failure(_run_once, root, pipelines, scanned)
            retry_at = None if is_done else time.monotonic() + RETRY_S
            log.info("watching %s again", root)
        time.sleep(max(0.05, min(MAX_POLL_S, settle_s / 4), poll_s))  # a large inbox is not read without a pause


def _fetch(incoming: Incoming, root: Path, destination: Path) -> None:
    if incoming.archive and (count := incoming.archive.fetch(incoming.query, root, destination / "fetching")):
        log.info("%s fetched from %s", pluralize(count, "object"), incoming.archive.url)


def _report_failure(work: Callable[..., None], *arguments: object) -> bool:
    """Do some work and log its failure; return False for failures that may pass by themselves."""
    try:
        work(*arguments)
    except (Interrupted, KeyboardInterrupt):
        raise
    except NothingTaken as reason:
        log.warning("%s", reason)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        log.error("%s", " ".join(str(error).split()) or type(error).__name__)
        return False
    return True
