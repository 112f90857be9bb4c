"""DICOMweb: find and fetch studies (QIDO, WADO), and store results (STOW).

Messages contain no UIDs, which URLs and answers of a server do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmread
from tqdm import tqdm

from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.network.addresses import instance_file, is_uid, require_package
from pretraining.common.atomic import atomic_write
from pretraining.common.child import hides_progress_bars
from pretraining.common.errors import CommandFailed, InputError

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient

TOKEN = "DICOMWEB_TOKEN"
"""Environment variable with a bearer token. Passwords are read from ``~/.netrc``."""
SCANS = ("CT", "MR", "PT", "NM")
"""Modalities that are fetched."""
_STUDY, _SERIES, _INSTANCE, _MODALITY, _COUNT = "0020000D", "0020000E", "00080018", "00080060", "00201208"
"""Tags of UIDs, of Modality and of NumberOfStudyRelatedInstances."""
_ATTEMPTS, _WAIT_MS = 3, 500
"""Number of attempts of a request, and the unit of the waits between them, milliseconds."""
TIMEOUT_S = (10.0, 300.0)
"""Longest wait for a connection, and for the next bytes, seconds."""


class Archive:
    """DICOMweb service.

    Args:
        url: Root URL.
        flag: Flag that names it, for messages.
    """

    def __init__(self, url: str, flag: str) -> None:
        require_package("dicomweb_client", "dicomweb-client", flag)
        self.url = url
        self._client = _open_client(url)
        self._counts: dict[str, int] = {}

    def fetch(self, query: Mapping[str, str], root: Path, unfinished: Path) -> int:
        """Fetch the scans of all matching studies that ``root`` lacks.

        A study appears in ``root`` only when all its scans have arrived.

        Args:
            query: Attributes and values of QIDO, such as ``StudyDate: 20260101-``.
            root: Folder that receives ``STUDY/INSTANCE.dcm``.
            unfinished: Folder for studies that are being fetched, on the same disk if possible.

        Returns:
            Number of objects fetched.

        Raises:
            CommandFailed: If the service cannot be reached or answers with an error.
        """
        with _errors_without_uids(self.url):
            studies = _search_all(
                partial(
                    self._client.search_for_studies,
                    search_filters=dict(query),
                    fields=["NumberOfStudyRelatedInstances"],
                ),
                _STUDY,
            )
        fetched = 0
        for uid, study in tqdm(
            studies.items(), desc="fetching", unit="study", leave=False, disable=hides_progress_bars()
        ):
            count = int(_value(study, _COUNT) or 0)
            if not is_uid(uid) or (count and self._counts.get(uid) == count):
                continue
            with _errors_without_uids(self.url):
                fetched += self._fetch_study(uid, root, unfinished)
            self._counts[uid] = count
        return fetched

    def _fetch_study(self, study: str, root: Path, unfinished: Path) -> int:
        arrived = []
        found = _search_all(partial(self._client.search_for_series, study, fields=["Modality"]), _SERIES)
        for series_uid, series in found.items():
            if _value(series, _MODALITY) not in SCANS:
                continue
            for instance_uid in _search_all(partial(self._client.search_for_instances, study, series_uid), _INSTANCE):
                path, final = (instance_file(folder, study, instance_uid) for folder in (unfinished, root))
                if final.is_file():
                    continue
                arrived.append((path, final))
                if not path.is_file():
                    self._fetch_instance((study, series_uid, instance_uid), path)
        for path, final in arrived:
            final.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, final)
        shutil.rmtree(unfinished / study, ignore_errors=True)
        return len(arrived)

    def _fetch_instance(self, uids: tuple[str, str, str], path: Path) -> None:
        dataset = self._client.retrieve_instance(*uids, media_types=(("application/dicom", "*"),))
        with quiet_readers(), atomic_write(path) as unfinished:
            dataset.save_as(unfinished)

    def store(self, path: Path) -> None:
        """Store one DICOM file.

        Raises:
            CommandFailed: If the service cannot be reached, or refuses the object.
        """
        with _errors_without_uids(self.url), quiet_readers():
            answer = self._client.store_instances([dcmread(path)])
        failed: Sequence[Dataset] = answer.get("FailedSOPSequence") or ()
        if failed:
            reason = failed[0].get("FailureReason")
            code = f"0x{reason:04X}" if isinstance(reason, int) else "unknown"
            raise CommandFailed(f"{self.url} refuses the object (failure reason {code})")


def _open_client(url: str) -> DICOMwebClient:
    from dicomweb_client.api import DICOMwebClient
    from requests import PreparedRequest, Response, Session
    from requests.adapters import HTTPAdapter

    class WithTimeout(HTTPAdapter):
        def send(self, request: PreparedRequest, *arguments: Any, **options: Any) -> Response:
            return super().send(request, *arguments, **{**options, "timeout": options.get("timeout") or TIMEOUT_S})

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, WithTimeout())
    headers = {"Authorization": f"Bearer {token}"} if (token := os.environ.get(TOKEN)) else {}
    client = DICOMwebClient(url=url, session=session, headers=headers)
    client.set_http_retry_params(max_attempts=_ATTEMPTS, wait_exponential_multiplier=_WAIT_MS)
    return client


def _search_all(search: Callable[..., list[dict[str, Any]]], key: str) -> dict[str, dict[str, Any]]:
    """Return the answers of all pages by their UID.

    The end is a page without a new UID: some servers ignore ``offset`` and repeat the first page.
    """
    found: dict[str, dict[str, Any]] = {}
    while True:
        page = {_value(answer, key): answer for answer in search(offset=len(found))}
        new = {uid: answer for uid, answer in page.items() if uid not in found}
        if not new:
            return found
        found |= new


@contextmanager
def _errors_without_uids(url: str) -> Iterator[None]:
    """Replace errors of the connection and of the answers, which quote URLs and tag values."""
    from requests import RequestException

    try:
        yield
    except (InputError, CommandFailed):
        raise
    except RequestException as error:
        answer = f"HTTP status {error.response.status_code}" if error.response is not None else type(error).__name__
        raise CommandFailed(f"{url} cannot be used ({answer}); check address, password and network") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandFailed(f"{url}: unexpected answer ({type(error).__name__}); expected DICOMweb") from None


def _value(answer: Mapping[str, Any], tag: str) -> str:
    """Return the first value of a tag in DICOM JSON; empty if there is none."""
    values = answer.get(tag, {}).get("Value") or [""]
    return str(values[0])
