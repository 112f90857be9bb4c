"""A watched inbox, and archives on both sides, with a stand-in for nnU-Net."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import SegmentationStorage

from nnunet_anatomix.clinical.network.addresses import DimseAddress
from nnunet_anatomix.clinical.network.dicomweb import Archive
from nnunet_anatomix.clinical.network.dimse import send
from nnunet_anatomix.clinical.running import prediction
from tests.in_process import run_here
from tests.nnunet_anatomix.clinical.dicom_series import write_series
from tests.nnunet_anatomix.clinical.intake.test_intake import IDENTIFYING
from tests.nnunet_anatomix.clinical.miniature_model import write_model
from tests.nnunet_anatomix.clinical.network.orthanc import free_port, run_orthanc
from tests.nnunet_anatomix.clinical.running.stand_in import StandIn
from tests.process_server import PythonProcess

REPOSITORY = Path(__file__).resolve().parents[4]
_PROGRAM = """
from nnunet_anatomix.cli import main
from nnunet_anatomix.clinical.running import prediction
from tests.nnunet_anatomix.clinical.running.stand_in import StandIn
prediction.run_child = StandIn()
main()
"""


@dataclass
class Service:
    """A command that runs until it is stopped."""

    process: PythonProcess
    _output: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened, as long as the service runs."""
        deadline = time.monotonic() + 240
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.1)


@contextmanager
def watching(src: Path, dst: Path, model: Path, *options: object) -> Iterator[Service]:
    """Run the command until the block ends, then stop it as a service manager does."""
    words = ["run", src, dst, "-m", model, "--no-overview", "--workers=1", "--watch", "--settle-s=1", *options]
    process = PythonProcess([sys.executable, "-c", _PROGRAM, *words], cwd=REPOSITORY, output=dst.parent / "output")
    service = Service(process, dst.parent / "output")
    try:
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "Dataset777_Mini")


def test_studies_are_taken_as_they_come_until_the_service_is_stopped(model, tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    results = dst / "results" / "delivered"
    with watching(src, dst, model) as service:
        service.wait_for((dst / ".anatomix.lock").is_file)
        refused = run_here("nnunet-anatomix", "run", src, dst, "-m", model)
        assert refused.returncode == 1 and "is in use by process" in refused.stderr
        write_series(src, modality="MR", description="t1", name="MR{number:05d}")  # fits no channel
        service.wait_for((dst / "intake" / "intake.csv").is_file)
        write_series(src)
        service.wait_for((results / "case_001.json").is_file)
        write_series(src / "more", patient_id="other")
        service.wait_for((results / "case_002.json").is_file)
        service.wait_for(lambda: service.output.rstrip().endswith(f"watching {src} again"))
    assert service.process.returncode == 128 + signal.SIGTERM
    assert service.output.splitlines()[-1] == "stopped; run the same command again to resume"
    assert "Traceback" not in service.output
    assert not [word for word in IDENTIFYING if word in service.output.replace(str(tmp_path), "")]
    assert not (dst / ".anatomix.lock").exists()


def test_what_is_received_is_segmented_and_sent_on_when_the_receiver_is_back(model, monkeypatch, tmp_path):
    own, other = (DimseAddress(name, "127.0.0.1", free_port()) for name in ("ANATOMIX", "VIEWER"))
    src, dst = tmp_path / "src", tmp_path / "dst"
    files = write_series(tmp_path / "scanner")
    with watching(src, dst, model, "--receive", own, "--send", other) as service:
        service.wait_for(lambda: f"receiving C-STORE at {own}" in service.output)
        for file in files:
            send(own, file)
        service.wait_for(lambda: f"{other} cannot be used (no answer)" in service.output)
    assert not (dst / "sent").exists()
    received = []
    viewer = AE(ae_title="VIEWER")
    viewer.add_supported_context(SegmentationStorage)

    def store(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0

    server = viewer.start_server(("127.0.0.1", other.port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    # On a busy machine the slices may come so slowly that the service has taken the first alone.
    monkeypatch.setattr(prediction, "run_child", StandIn())
    try:
        for _ in range(2):  # the second time, everything has been sent
            done = run_here("nnunet-anatomix", "run", src, dst, "-m", model, "--no-overview", "--send", other)
            assert done.returncode == 0, done.stderr
    finally:
        server.shutdown()
    (segmentation,) = received
    assert segmentation.StudyInstanceUID == dcmread(files[0]).StudyInstanceUID
    assert sitk.ReadImage(str(dst / "results" / "nifti" / "case_001.nii.gz")).GetSize()[2] == len(files)


def test_from_an_archive_and_back_by_dicomweb(model, monkeypatch, tmp_path):
    stand_in = StandIn()
    monkeypatch.setattr(prediction, "run_child", stand_in)
    files = write_series(tmp_path / "scanner", patient_id="wanted")
    with run_orthanc(tmp_path / "orthanc") as server:
        for file in [*files, *write_series(tmp_path / "others", patient_id="unwanted")]:
            Archive(server.url, "--send").store(file)
        command = ("run", tmp_path / "src", tmp_path / "dst", "-m", model, "--no-overview", "--workers", "1")
        network = ("--fetch", server.url, "--query", "PatientID=wanted", "--send", server.url)
        for _ in range(2):
            done = run_here("nnunet-anatomix", *command, *network)
            assert done.returncode == 0, done.stderr
        (found,) = server.instances("SEG")
        study = str(dcmread(files[0]).StudyInstanceUID)
        assert found["0020000D"]["Value"] == [study]
        stored = server.client.retrieve_study(study)
    assert stand_in.calls == [["case_001"]]
    (segmentation,) = [dataset for dataset in stored if dataset.Modality == "SEG"]
    delivered = dcmread(tmp_path / "dst" / "results" / "segmentations" / "case_001.dcm")
    assert segmentation.SOPInstanceUID == delivered.SOPInstanceUID and segmentation.PixelData == delivered.PixelData
