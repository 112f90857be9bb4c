"""Sending of delivered DICOM objects, once to each receiver.

``DST/sent/CASE.json`` is written after the receiver has confirmed; a run that is killed in between
sends the same object again, which archives recognize by its UID.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_anatomix.clinical.delivery.records import DELIVERED, read_record
from nnunet_anatomix.clinical.network.addresses import check_url, is_url, parse_dimse_address
from nnunet_anatomix.clinical.network.dicomweb import Archive
from nnunet_anatomix.clinical.network.dimse import send
from pretraining.common.atomic import write_text
from pretraining.common.batch import run_batch
from pretraining.common.fingerprint import file_sha256

log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class Receiver:
    """System that gets the results."""

    address: str
    """URL of a DICOMweb service, or ``AET@HOST:PORT``."""
    store: Callable[[Path], None]
    """Function that sends one file; raises CommandFailed unless the receiver confirms it."""


def find_receiver(text: str) -> Receiver:
    """Return the receiver that ``--send`` names.

    Raises:
        InputError: For another syntax, or if the package for its protocol is not installed.
    """
    if is_url(text):
        archive = Archive(check_url(text, "--send"), "--send")
        return Receiver(archive.url, archive.store)
    address = parse_dimse_address(text, "--send")
    return Receiver(str(address), lambda path: send(address, path))


def send_results(results: Path, sent: Path, receivers: Sequence[Receiver]) -> int:
    """Send the DICOM objects of all delivered cases to all receivers.

    Args:
        results: Folder of a delivery.
        sent: Folder for the records of what was sent.
        receivers: Receivers; each gets every object once.

    Returns:
        Number of cases sent, counted once per receiver.

    Raises:
        CommandFailed: If some could not be sent, after all others were. The same call tries again.
        Interrupted: On a stop signal.
    """
    cases = sorted((path.stem for path in (results / DELIVERED).glob("*.json")), key=lambda case: (len(case), case))
    objects = {case: _objects(results, case) for case in cases}
    items = {
        f"{case} to {receiver.address}": (case, receiver)
        for case in cases
        for receiver in receivers
        if any(_read_sent(sent, case).get(receiver.address, {}).get(file) != sha for file, sha in objects[case].items())
    }
    if not items:
        return 0

    def work(item: tuple[str, Receiver]) -> None:
        case, receiver = item
        for file, sha256 in objects[case].items():
            confirmed = _read_sent(sent, case)
            if confirmed.get(receiver.address, {}).get(file) != sha256:
                receiver.store(results / file)
                confirmed.setdefault(receiver.address, {})[file] = sha256
                text = json.dumps({"format": _FORMAT, "sent": confirmed}, indent=1)
                write_text(sent / f"{case}.json", text + "\n")

    outcome = run_batch(items, work, noun="case")
    outcome.require_all("deliveries to other systems")
    return outcome.done


def _objects(results: Path, case: str) -> dict[str, str]:
    """Return the DICOM files of a completely delivered case with their SHA-256."""
    record = read_record(results, case)
    if record is None or not record.is_complete(results):
        return {}
    return {file: file_sha256(results / file) for file in record.files if file.endswith(".dcm")}


def _read_sent(sent: Path, case: str) -> dict[str, dict[str, str]]:
    """Return what receivers have confirmed: receiver → file → SHA-256."""
    try:
        stored = json.loads((sent / f"{case}.json").read_text(encoding="utf-8"))
        return dict(stored["sent"]) if stored["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
