"""From an archive to an archive by one command, with nnU-Net's own prediction."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from highdicom.seg import Segmentation
from pydicom import dcmread

from nnunet_anatomix.clinical.network.addresses import DimseAddress
from nnunet_anatomix.clinical.network.dicomweb import Archive
from nnunet_anatomix.clinical.network.dimse import send
from tests.nnunet_anatomix.clinical.dicom_series import ramp, write_series
from tests.nnunet_anatomix.clinical.miniature_model import write_model
from tests.nnunet_anatomix.clinical.network.orthanc import free_port, run_orthanc


def start(output: Path, *words: object) -> subprocess.Popen:
    """Start the command as a user does, printing into a file."""
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "nnunet_anatomix", "run", *map(str, words)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"nnUNet_def_n_proc": "1"},
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, output: Path) -> None:
    deadline = time.monotonic() + 500
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, output.read_text(errors="replace")
        time.sleep(0.1)


def predict_here(model: Path, image: Path, folder: Path) -> np.ndarray:
    """Labels that nnU-Net predicts in this process, as an oracle."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("all",))
    predictor.predict_from_files_sequential([[str(image)]], [str(folder / "labels")], overwrite=True)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels.nii.gz")))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_studies_come_from_archive_and_scanner_and_their_segmentations_are_found_by_qido(tmp_path):
    model, src, dst, output = (
        write_model(tmp_path / "Dataset777_Mini"),
        tmp_path / "src",
        tmp_path / "dst",
        tmp_path / "out",
    )
    archived = write_series(tmp_path / "archived", ramp(seed=1), patient_id="archived")
    scanned = write_series(tmp_path / "scanned", ramp(seed=2), patient_id="scanned")
    own = DimseAddress("ANATOMIX", "127.0.0.1", free_port())
    with run_orthanc(tmp_path / "orthanc") as server:
        archive = Archive(server.url, "--send")
        words = [src, dst, "-m", model, "--device", "cpu", "--fetch", server.url, "--query", "PatientID=archived"]
        words += ["--send", server.url]
        service = start(output, *words, "--watch", "--settle-s", 5, "--receive", own)
        try:
            wait_for(lambda: output.is_file() and "receiving" in output.read_text(), service, output)
            for first, second in zip(archived, scanned, strict=True):
                archive.store(first)
                send(own, second)
            wait_for(lambda: len(server.instances("SEG")) >= 2, service, output)
        finally:
            service.terminate()
            service.wait(120)
        assert service.returncode == 128 + signal.SIGTERM, output.read_text()
        again = start(output, *words)
        assert again.wait(300) == 0, output.read_text()
        objects = {found["00080018"]["Value"][0]: found for found in server.instances("SEG")}
        stored = {
            uid: server.client.retrieve_instance(found["0020000D"]["Value"][0], found["0020000E"]["Value"][0], uid)
            for uid, found in objects.items()
        }
    for case in ("case_001", "case_002"):
        expected = predict_here(model, dst / "intake" / "images" / f"{case}_0000.nii.gz", tmp_path)
        assert set(np.unique(expected)) == {0, 1, 2}
        assert np.array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(dst / "results" / "nifti" / f"{case}.nii.gz"))), expected
        )
        delivered = dcmread(dst / "results" / "segmentations" / f"{case}.dcm")
        segmentation = Segmentation.from_dataset(stored[delivered.SOPInstanceUID])
        files = next(
            files for files in (archived, scanned) if dcmread(files[0]).StudyInstanceUID == delivered.StudyInstanceUID
        )
        instances = [dcmread(file).SOPInstanceUID for file in files]
        for number in (1, 2):
            found = segmentation.get_pixels_by_source_instance(
                instances, segment_numbers=[number], assert_missing_frames_are_empty=True
            )
            assert np.array_equal(found[..., 0], expected == number)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_at_any_moment_continues(tmp_path):
    model, src, dst, output = (
        write_model(tmp_path / "Dataset777_Mini"),
        tmp_path / "src",
        tmp_path / "dst",
        tmp_path / "out",
    )
    for number in range(3):
        write_series(src / str(number), ramp(seed=number), patient_id=str(number))
    words = (src, dst, "-m", model, "--device", "cpu", "--no-mirroring", "--workers", 1)
    moments: tuple[Callable[[], bool], ...] = (
        lambda: any(dst.glob("intake/sources/*.json")),
        lambda: any(dst.glob("predicting/images/*")),
        lambda: any(dst.glob("predicting/labels/case_*")),
        lambda: any(dst.glob("results/delivered/*.json")),
    )
    for moment in moments:
        killed = start(output, *words)
        wait_for(moment, killed, output)
        children = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
        killed.wait()
        # nnU-Net ends with the command, so that nothing writes beside the next one.
        _, alive = psutil.wait_procs(children, timeout=60)
        for child in alive:
            with suppress(psutil.Error):
                child.kill()
        assert not alive
    done = start(output, *words)
    assert done.wait(600) == 0, output.read_text()
    assert len(list((dst / "results" / "segmentations").iterdir())) == 3
    assert not (dst / "predicting").exists() and not (dst / ".anatomix.lock").exists()
    for case in ("case_001", "case_002", "case_003"):
        labels = sitk.ReadImage(str(dst / "results" / "nifti" / f"{case}.nii.gz"))
        predicted = sitk.ReadImage(str(dst / "predictions" / f"{case}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(predicted))
