"""QIDO, WADO and STOW with a real server."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.network.dicomweb import Archive, _search_all
from pretraining.common.errors import CommandFailed
from tests.nnunet_anatomix.clinical.dicom_series import write_series
from tests.nnunet_anatomix.clinical.network.orthanc import Orthanc, free_port, run_orthanc


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Orthanc]:
    with run_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def store(server: Orthanc, folder: Path, patient: str, **options: object) -> list[Path]:
    """Store a new series and return its files."""
    files = write_series(folder, patient_id=patient, **options)
    archive = Archive(server.url, "--send")
    for file in files:
        archive.store(file)
    return files


def test_studies_that_match_are_fetched_as_they_were_stored(server, tmp_path):
    wanted = store(server, tmp_path / "a", "first", coding="jpegls")
    store(server, tmp_path / "b", "second")
    archive = Archive(server.url, "--fetch")
    assert archive.fetch({"PatientID": "first"}, tmp_path / "in", tmp_path / "fetching") == len(wanted)
    for file in wanted:
        before = dcmread(file)
        after = dcmread(tmp_path / "in" / before.StudyInstanceUID / f"{before.SOPInstanceUID}.dcm")
        assert after == before and after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
    (series,), strays = scan_tree(tmp_path / "in")
    assert not series.problem and not strays
    assert not list((tmp_path / "fetching").rglob("*"))


def test_only_what_is_new_is_fetched_again(server, tmp_path):
    study, archive = generate_uid(), Archive(server.url, "--fetch")
    store(server, tmp_path / "a", "third", study_uid=study)
    query = {"StudyInstanceUID": study}
    archive.fetch(query, tmp_path / "in", tmp_path / "fetching")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*.dcm")}
    assert archive.fetch(query, tmp_path / "in", tmp_path / "fetching") == 0
    more = store(server, tmp_path / "b", "third", study_uid=study)
    assert archive.fetch(query, tmp_path / "in", tmp_path / "fetching") == len(more)
    assert Archive(server.url, "--fetch").fetch(query, tmp_path / "in", tmp_path / "fetching") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_is_no_scan_stays_in_the_archive(server, tmp_path):
    study = generate_uid()
    scans = store(server, tmp_path / "a", "fourth", study_uid=study)
    store(server, tmp_path / "b", "fourth", study_uid=study, modality="SEG")
    archive = Archive(server.url, "--fetch")
    assert archive.fetch({"StudyInstanceUID": study}, tmp_path / "in", tmp_path / "fetching") == len(scans)


def test_a_study_appears_only_when_all_of_it_has_arrived(server, tmp_path, monkeypatch):
    study, root, unfinished = generate_uid(), tmp_path / "in", tmp_path / "fetching"
    files = store(server, tmp_path / "a", "fifth", study_uid=study)
    archive = Archive(server.url, "--fetch")
    retrieve, calls = archive._client.retrieve_instance, []

    def break_off(*uids, **options):
        calls.append(uids)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return retrieve(*uids, **options)

    monkeypatch.setattr(archive._client, "retrieve_instance", break_off)
    with pytest.raises(KeyboardInterrupt):
        archive.fetch({"StudyInstanceUID": study}, root, unfinished)
    assert not root.exists() and len(list(unfinished.rglob("*.dcm"))) == 3
    assert archive.fetch({"StudyInstanceUID": study}, root, unfinished) == len(files)
    assert len(calls) == 4 + len(files) - 3
    assert len(list(root.rglob("*.dcm"))) == len(files) and not list(unfinished.rglob("*"))


def test_an_object_that_the_archive_refuses_is_an_error(server, tmp_path):
    file = write_series(tmp_path)[0]
    dataset = dcmread(file)
    del dataset.SOPInstanceUID
    dataset.save_as(file)
    with pytest.raises(CommandFailed, match=r"127\.0\.0\.1"):
        Archive(server.url, "--send").store(file)


def test_a_wrong_address_is_an_error_without_uids(server, tmp_path):
    file = write_series(tmp_path / "a", study_uid="1.2.826.4711")[0]
    for url in (server.url.replace("dicom-web", "nothing"), f"http://127.0.0.1:{free_port()}/dicom-web"):
        archive = Archive(url, "--fetch")
        with pytest.raises(CommandFailed) as stored:
            archive.store(file)
        with pytest.raises(CommandFailed) as fetched:
            archive.fetch({"StudyInstanceUID": "1.2.826.4711"}, tmp_path / "in", tmp_path / "fetching")
        for error in (stored, fetched):
            assert url in str(error.value) and "4711" not in str(error.value)


def test_a_token_is_sent_and_a_page_that_is_no_dicomweb_refused(monkeypatch, tmp_path):
    seen = []

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>log in</html>")

        def log_message(self, *arguments: object) -> None:
            pass

    page = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    monkeypatch.setenv("DICOMWEB_TOKEN", "abc")
    try:
        archive = Archive(f"http://127.0.0.1:{page.server_port}", "--fetch")
        with pytest.raises(CommandFailed, match=r"expected DICOMweb|cannot be used"):
            archive.fetch({"PatientID": "1"}, tmp_path / "in", tmp_path / "fetching")
    finally:
        page.shutdown()
        page.server_close()
    assert seen == ["Bearer abc"]


def test_a_server_that_repeats_its_first_page_is_read_once():
    answers = [{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in ("1.2", "1.3")]
    assert list(_search_all(lambda offset: answers, "0020000D")) == ["1.2", "1.3"]
    pages = {0: answers, 2: [{"0020000D": {"vr": "UI", "Value": ["1.4"]}}], 3: []}
    assert list(_search_all(lambda offset: pages[offset], "0020000D")) == ["1.2", "1.3", "1.4"]
