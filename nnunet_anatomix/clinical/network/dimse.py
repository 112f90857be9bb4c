"""DIMSE: receive and send objects by C-STORE.

The protocol has neither passwords nor encryption: use it inside a protected network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmread

from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.network.addresses import DimseAddress, instance_file, require_package
from nnunet_anatomix.clinical.phrases import describe_error
from pretraining.common.atomic import atomic_write
from pretraining.common.completeness import Incomplete
from pretraining.common.errors import CommandFailed, InputError

if TYPE_CHECKING:
    from pynetdicom.events import Event

log = logging.getLogger(__name__)

_SUCCESS, _OUT_OF_RESOURCES, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_SENDER = "NNUNET_ANATOMIX"
"""AE title under which results are sent."""


@contextmanager
def receive(address: DimseAddress, root: Path) -> Iterator[None]:
    """Store the objects that others send, in threads, as ``ROOT/STUDY/INSTANCE.dcm``.

    An object that is sent again unchanged leaves its file untouched. C-ECHO is answered.

    Args:
        address: Own AE title, which senders must use, with the interface and port to listen at.
        root: Existing folder.

    Raises:
        InputError: If pynetdicom is not installed, or the port cannot be used.
    """
    _prepare("--receive")
    from pynetdicom import (
        AE,
        ALL_TRANSFER_SYNTAXES,
        AllStoragePresentationContexts,
        VerificationPresentationContexts,
        evt,
    )

    entity = AE(ae_title=address.title)
    entity.require_called_aet = True
    for context in [*VerificationPresentationContexts, *AllStoragePresentationContexts]:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    try:
        server = entity.start_server(
            (address.host, address.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, lambda event: _store(event, root))],
        )
    except OSError as error:
        raise InputError(
            f"--receive: cannot listen at {address} ({describe_error(error)}); use another port or interface"
        ) from None
    log.info("receiving C-STORE at %s", address)
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()


def _store(event: Event, root: Path) -> int:
    """Write one received object and return the DIMSE status."""
    try:
        study, instance = (_uid(event.dataset, keyword) for keyword in ("StudyInstanceUID", "SOPInstanceUID"))
        path, content = instance_file(root, study, instance), event.encoded_dataset()
    except Exception:  # damaged bytes of another system; pydicom raises many types
        log.warning("an object was refused: it has no valid StudyInstanceUID and SOPInstanceUID")
        return _NOT_UNDERSTOOD
    try:
        if path.is_file() and path.read_bytes() == content:
            return _SUCCESS
        with atomic_write(path, verify=lambda partial: _require_bytes(partial, content)) as partial:
            partial.write_bytes(content)
    except (OSError, CommandFailed, InputError) as error:
        reason = describe_error(error) if isinstance(error, OSError) else type(error).__name__
        log.error("an object could not be stored in %s: %s", root, reason)
        return _OUT_OF_RESOURCES
    return _SUCCESS


def _uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID without pydicom's conversion, whose warnings quote the value."""
    value = dataset.get_item(keyword).value
    return value.decode("ascii").rstrip("\0 ") if isinstance(value, bytes) else str(value)


def _require_bytes(path: Path, content: bytes) -> None:
    if path.read_bytes() != content:
        raise Incomplete("the bytes read back differ from those received")


def send(address: DimseAddress, path: Path) -> None:
    """Send one DICOM file.

    Args:
        address: Receiver.
        path: File.

    Raises:
        InputError: If pynetdicom is not installed.
        CommandFailed: If the receiver cannot be reached, or refuses the object.
    """
    _prepare("--send")
    from pynetdicom import AE

    with quiet_readers():
        dataset = dcmread(path)
    entity = AE(ae_title=_SENDER)
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate(address.host, address.port, ae_title=address.title)
    if not association.is_established:
        reason = "it refuses the association or kind of object" if association.acceptor.primitive else "no answer"
        raise CommandFailed(f"{address} cannot be used ({reason}); check address, AE titles and network")
    try:
        with quiet_readers():
            status = association.send_c_store(dataset)
    except (ValueError, RuntimeError) as error:
        raise CommandFailed(f"{address} cannot be used ({type(error).__name__})") from None
    finally:
        association.release()
    code = status.get("Status")
    if code is None:
        raise CommandFailed(f"{address} did not answer; check the network")
    if code != _SUCCESS and code >> 12 != 0xB:  # 0xBxxx: stored, with a warning
        raise CommandFailed(f"{address} refuses the object (status 0x{code:04X})")


def _prepare(flag: str) -> None:
    """Check that pynetdicom is installed, and mute its log, which quotes tag values."""
    require_package("pynetdicom", "pynetdicom", flag)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
