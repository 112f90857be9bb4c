"""C-STORE between this software, pynetdicom and Orthanc, on loopback."""

from __future__ import annotations

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.network.addresses import DimseAddress
from nnunet_anatomix.clinical.network.dimse import receive, send
from pretraining.common.errors import CommandFailed, InputError
from tests.nnunet_anatomix.clinical.dicom_series import write_series
from tests.nnunet_anatomix.clinical.network.orthanc import free_port, run_orthanc


@pytest.fixture
def address() -> DimseAddress:
    return DimseAddress("ANATOMIX", "127.0.0.1", free_port())


@pytest.mark.parametrize("coding", ["explicit", "implicit", "jpegls", "rle"])
def test_a_series_arrives_as_it_was_sent(coding, address, tmp_path):
    files = write_series(tmp_path / "sent", coding=coding)
    (tmp_path / "in").mkdir()
    with receive(address, tmp_path / "in"):
        for file in files:
            send(address, file)
    for file in files:
        before = dcmread(file)
        after = dcmread(tmp_path / "in" / before.StudyInstanceUID / f"{before.SOPInstanceUID}.dcm")
        assert before == after and before.file_meta.TransferSyntaxUID == after.file_meta.TransferSyntaxUID
    (series,), strays = scan_tree(tmp_path / "in")
    assert not series.problem and not strays and len(series.files) == len(files)


def test_an_object_that_comes_twice_leaves_its_file_untouched(address, tmp_path):
    file = write_series(tmp_path / "sent")[0]
    (tmp_path / "in").mkdir()
    with receive(address, tmp_path / "in"):
        send(address, file)
        (stored,) = (tmp_path / "in").rglob("*.dcm")
        before = stored.stat()
        send(address, file)
        assert stored.stat().st_mtime_ns == before.st_mtime_ns and stored.stat().st_ino == before.st_ino
        dataset = dcmread(file)
        dataset.PatientComments = "corrected"
        dataset.save_as(file)
        send(address, file)
    assert dcmread(stored).PatientComments == "corrected"


def test_echo_is_answered_under_its_own_title_alone(address, tmp_path):
    entity = AE()
    entity.add_requested_context(Verification)
    with receive(address, tmp_path):
        association = entity.associate(address.host, address.port, ae_title=address.title)
        assert association.send_c_echo().Status == 0
        association.release()
        assert not entity.associate(address.host, address.port, ae_title="OTHER").is_established


def test_an_object_that_names_a_path_is_refused(address, tmp_path):
    file = write_series(tmp_path / "sent", study_uid="1.2.3")[0]
    dataset = dcmread(file)
    with quiet_readers():
        dataset.StudyInstanceUID = "../../out"
        dataset.save_as(file)
    (tmp_path / "a" / "in").mkdir(parents=True)
    with receive(address, tmp_path / "a" / "in"), pytest.raises(CommandFailed, match="refuses the object"):
        send(address, file)
    assert not [path for path in tmp_path.rglob("*.dcm") if "sent" not in path.parts]


def test_a_disk_that_cannot_be_written_refuses_the_object(address, tmp_path):
    file = write_series(tmp_path / "sent")[0]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / str(dcmread(file).StudyInstanceUID)).write_text("a file where the folder should be")
    with receive(address, tmp_path / "in"), pytest.raises(CommandFailed, match="0xA700"):
        send(address, file)


def test_a_port_in_use_is_refused(address, tmp_path):
    with (
        receive(address, tmp_path),
        pytest.raises(InputError, match="cannot listen at ANATOMIX@127"),
        receive(address, tmp_path),
    ):
        pass


def test_receivers_that_are_absent_or_refuse_are_named(address, tmp_path):
    file = write_series(tmp_path)[0]
    with pytest.raises(CommandFailed, match=r"no answer.*check address"):
        send(address, file)
    entity = AE(ae_title="FULL")
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(
        ("127.0.0.1", address.port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0xA700)]
    )
    try:
        with pytest.raises(CommandFailed, match="0xA700"):
            send(DimseAddress("FULL", "127.0.0.1", address.port), file)
    finally:
        server.shutdown()


def test_orthanc_receives_what_is_sent(tmp_path):
    files = write_series(tmp_path / "sent")
    with run_orthanc(tmp_path / "orthanc") as server:
        title, host, port = server.address.replace("@", ":").split(":")
        for file in files:
            send(DimseAddress(title, host, int(port)), file)
        assert len(server.instances("CT")) == len(files)
