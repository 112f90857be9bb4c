"""A real archive, Orthanc, on loopback: DICOMweb and DIMSE."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from dicomweb_client.api import DICOMwebClient

_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
_START_S = 60


@dataclass(frozen=True)
class Orthanc:
    """Addresses of a running server."""

    url: str
    """Root of its DICOMweb service."""
    address: str
    """``AET@HOST:PORT`` of its DIMSE service."""

    @property
    def client(self) -> DICOMwebClient:
        """A client that asks the server what it has."""
        return DICOMwebClient(self.url)

    def instances(self, modality: str) -> list[dict]:
        """All objects of a modality, as QIDO answers."""
        return self.client.search_for_instances(search_filters={"Modality": modality})


def free_port() -> int:
    """Return a port that no program listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def run_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run a server with an empty archive; skip the test where Orthanc is not installed."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    plugin = next((path for at in _PLUGINS for path in Path(at).glob("libOrthancDicomWeb*")), None)
    if program is None or plugin is None:
        pytest.skip("needs Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    http, dimse = free_port(), free_port()
    described = {
        "Name": "Test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugin)],
        "HttpPort": http,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": dimse,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(described))
    with (folder / "orthanc.log").open("wb") as log:
        server = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(server, f"http://127.0.0.1:{http}/dicom-web/studies", folder / "orthanc.log")
            yield Orthanc(f"http://127.0.0.1:{http}/dicom-web", f"ORTHANC@127.0.0.1:{dimse}")
        finally:
            server.terminate()
            server.wait(30)


def _wait_until_ready(server: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)
