"""Tests of ``intake`` on a real CT series and on a synthetic PACS export."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.cases import image_file, read_source, read_sources, source_file
from nnunet_anatomix.clinical.intake import intake as intake_module
from nnunet_anatomix.clinical.intake.intake import IntakeResult, intake
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import InUse
from pretraining.imaging.grids import Grid
from tests.in_process import run_here
from tests.nnunet_anatomix.clinical.dicom_series import CORONAL, PATIENT, PATIENT_NUMBER, ramp, write_series
from tests.process_server import PythonProcess, run_python

IDENTIFYING = (
    "Müller",
    "M\\xfcller",
    "ller-Gr",
    "Jürgen",
    PATIENT_NUMBER,
    "Schröder",
    "19501231",
    "ACC-0815",
    "Geheim",
    "Österreicher",
)


@pytest.fixture
def ct_model(tmp_path) -> str:
    return model_of(tmp_path / "ct model", "CT")


def model_of(folder: Path, *names: str, ending: str = ".nii.gz") -> str:
    folder.mkdir()
    said = {"channel_names": {str(number): name for number, name in enumerate(names)}, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(said))
    return str(folder)


def rows(done: IntakeResult | Path) -> list[dict[str, str]]:
    text = done.table if isinstance(done, IntakeResult) else (done / "intake.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def test_a_real_series(data_root, tmp_path, ct_model):
    folder = data_root / "dicom"
    intake(folder, tmp_path / "out", ct_model)
    image = sitk.ReadImage(str(tmp_path / "out" / "images" / "case_001_0000.nii.gz"))
    oracle = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "ct_series")))
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(oracle))
    for quantity in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(image, quantity)(), getattr(oracle, quantity)(), atol=1e-4)
    segmentation = sitk.DICOMOrient(sitk.ReadImage(str(folder / "ct_series_seg.nii.gz")), "LPS")
    upright = sitk.DICOMOrient(image, "LPS")
    assert upright.GetSize() == segmentation.GetSize()
    assert np.allclose(upright.GetOrigin(), segmentation.GetOrigin(), atol=1e-3)
    assert np.allclose(upright.GetSpacing(), segmentation.GetSpacing(), atol=1e-4)
    inside = sitk.GetArrayFromImage(upright)[sitk.GetArrayFromImage(segmentation) > 0]
    assert inside.size and inside.mean() > -200  # organs, not air
    taken, label = rows(tmp_path / "out")
    assert taken["taken"] == "yes" and taken["files"] == "20" and label["reason"] == "label map (file name)"
    (link,) = read_sources(tmp_path / "out")
    assert link.grid == Grid.of(oracle) or np.allclose(link.grid.origin_mm, oracle.GetOrigin(), atol=1e-4)
    for k, path in enumerate(link.channels[0].paths()):
        plane = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
        assert np.array_equal(plane, sitk.GetArrayFromImage(image)[k])


def pacs_dump(folder: Path) -> dict[str, str]:
    """Write 20 series of three patients and five studies; five series are unusable.

    Returns:
        SeriesInstanceUID of each unusable series → expected reason.
    """
    studies = [generate_uid() for _ in range(5)]
    frames = [generate_uid() for _ in range(5)]
    patients = [
        f"PID-{PATIENT_NUMBER}",
        f"PID-{PATIENT_NUMBER}",
        "PID-4712",
        "PID-4713 Österreicher",
        "PID-4713 Österreicher",
    ]

    paths: dict[str, list[Path]] = {}

    def series(study: int, name: str, **other) -> str:
        uid = other.pop("series_uid", None) or generate_uid()
        ids = {
            "study_uid": studies[study],
            "frame_uid": other.pop("frame_uid", frames[study]),
            "patient_id": patients[study],
        }
        voxels = other.pop("voxels", ramp(seed=study))
        paths[uid] = write_series(
            folder / f"Müller, Jürgen {study}" / name, voxels, series_uid=uid, description=name, **ids, **other
        )
        return uid

    # Study 0: what a CT scanner leaves.
    series(0, "Topogram", voxels=ramp((20, 20, 2)), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    series(0, "Abdomen 2.5", coding="jpeg2000")
    series(0, "Abdomen 5.0", voxels=ramp((20, 16, 6)), spacing_mm=(0.8, 0.7, 5.0))
    series(0, "Abdomen cor", direction=CORONAL, image_type=("DERIVED", "SECONDARY", "MPR"))
    # Study 1: the same patient later; CT and MR in one frame of reference.
    series(1, "Thorax", coding="rle")
    series(
        1,
        "t1_tse_tra",
        modality="MR",
        slope=None,
        intercept=None,
        voxels=ramp((22, 18, 12)),
        spacing_mm=(0.9, 0.8, 2.0),
    )
    series(1, "t2_tse_tra", modality="MR", slope=None, intercept=None)
    # Study 2: CT and MR, each in a frame of its own.
    series(2, "Becken", coding="jpegls")
    series(2, "t1_tse_tra", modality="MR", frame_uid=generate_uid(), slope=None, intercept=None)
    series(2, "Dose Report", voxels=ramp((8, 8, 2)))
    # Study 3: CT and MR on one grid.
    series(3, "Kopf ä ö ü", coding="deflated")
    series(3, "T1 MPRAGE", modality="MR", slope=None, intercept=None)
    series(3, "FLAIR", modality="MR", slope=None, intercept=None)
    series(3, "PET", modality="PT")
    # Study 4: nothing but an MR, and the five.
    series(4, "t1_mprage", modality="MR", slope=None, intercept=None)

    def tilted(dataset, k):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, f"{y + 4 * k:g}", z]

    def painted(dataset, k):
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)

    reasons = {
        series(4, "gantry", change=tilted): "gantry tilt",
        series(4, "capture", change=painted): "colour image",
    }
    missing = series(0, "missing")
    paths[missing][3].unlink()
    truncated = series(1, "truncated")
    paths[truncated][5].write_bytes(paths[truncated][5].read_bytes()[:-100])
    shared = series(2, "shared a")
    series(2, "shared b", series_uid=shared, frame_uid=generate_uid(), voxels=ramp((12, 12, 9)))
    reasons |= {
        missing: "missing slices: 1 of",
        truncated: "file is truncated",
        shared: "different series have the same SeriesInstanceUID",
    }
    (folder / "Müller, Jürgen 0" / "DICOMDIR.zip").write_bytes(b"PK\x03\x04" + bytes(50))
    (folder / "Brief an Müller.txt").write_text("Geheim")
    return reasons


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("pacs") / "Export für Müller"
    return folder, pacs_dump(folder)


def test_a_pacs_dump(dump, tmp_path, ct_model, caplog, capfd):
    folder, reasons = dump
    before = state_of(folder)
    with caplog.at_level(logging.DEBUG):
        done = intake(folder, tmp_path / "out", ct_model, workers=1)
    assert state_of(folder) == before
    table = rows(tmp_path / "out")
    scans = [row for row in table if row["series"]]
    assert len(scans) == 20
    for uid, reason in reasons.items():
        (row,) = [row for row in scans if row["series_uid"] == uid]
        assert reason in row["reason"] and row["taken"] == "no"
    assert len([row for row in scans if any(reason in row["reason"] for reason in reasons.values())]) == 5
    taken = {row["description"]: row["case"] for row in scans if row["taken"] == "yes"}
    assert taken == {"Abdomen 2.5": "case_001", "Thorax": "case_002", "Becken": "case_003", "Kopf ä ö ü": "case_004"}
    assert done.cases == tuple(sorted(taken.values()))
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == [
        f"case_{n:03d}_0000.nii.gz" for n in range(1, 5)
    ]
    assert all(row["reason"] for row in scans if row["taken"] == "no")
    assert len({row["patient"] for row in scans}) == 3
    others = {row["reason"] for row in table if not row["series"]}
    assert others == {"zip archive: not opened; unpack it first", "unknown file format"}
    said = "".join(capfd.readouterr()) + caplog.text + " ".join(str(path) for path in (tmp_path / "out").rglob("*"))
    assert not [word for word in IDENTIFYING if word in said.replace(str(folder), "")]
    for image in (tmp_path / "out" / "images").iterdir():
        assert PATIENT.encode() not in gzip.decompress(image.read_bytes())
    register = (tmp_path / "out" / "intake.json").read_text().replace(json.dumps(str(folder.resolve())), "")
    assert not [word for word in IDENTIFYING if word in register]


def test_two_channels_of_a_pacs_dump(dump, tmp_path, caplog):
    folder, _ = dump
    done = intake(folder, tmp_path / "out", model_of(tmp_path / "model", "CT", "T1", ending=".nrrd"))
    assert done.cases == ("case_002", "case_004")
    said = {row["description"] + row["case"]: row for row in rows(done)}
    assert said["Beckencase_003"]["reason"].endswith("different frames of reference")
    assert said["Abdomen 2.5case_001"]["reason"] == "case not taken: no series for channel 1 (T1)"
    assert said["t1_tse_tracase_002"]["channel"] == "1" and "resampled" in said["t1_tse_tracase_002"]["reason"]
    for case, resampled in (("case_002", True), ("case_004", False)):
        ct, mr = (sitk.ReadImage(str(image_file(tmp_path / "out", case, channel, ".nrrd"))) for channel in (0, 1))
        assert Grid.of(ct) == Grid.of(mr) and not [key for key in mr.GetMetaDataKeys() if "atient" in key]
        link = read_source(source_file(tmp_path / "out", case))
        assert [channel.resampled for channel in link.channels] == [False, resampled] and link.grid == Grid.of(ct)
    original = sitk.ReadImage(
        [str(path) for path in read_source(source_file(tmp_path / "out", "case_002")).channels[1].paths()]
    )
    ct, mr = (sitk.ReadImage(str(image_file(tmp_path / "out", "case_002", channel, ".nrrd"))) for channel in (0, 1))
    oracle = sitk.Resample(
        original, ct, sitk.Transform(), sitk.sitkLinear, float(sitk.GetArrayFromImage(original).min())
    )
    assert np.abs(sitk.GetArrayFromImage(mr).astype(float) - sitk.GetArrayFromImage(oracle)).max() <= 1


def test_a_dry_run_writes_nothing_and_says_the_same(dump, tmp_path, ct_model):
    folder, _ = dump
    dry = intake(folder, tmp_path / "out", ct_model, dry_run=True)
    assert not (tmp_path / "out").exists()
    wet = intake(folder, tmp_path / "out", ct_model)
    assert dry.cases == wet.cases
    assert dry.table.replace(",waiting,", ",yes,") == wet.table


def test_a_second_run_converts_what_is_missing_or_has_changed(tmp_path, ct_model, caplog):
    caplog.set_level(logging.INFO)
    source, out = tmp_path / "src", tmp_path / "out"
    for name in ("b", "d"):
        write_series(source / name, patient_id=name)
    intake(source, out, ct_model)
    first = state_of(out / "images")
    times = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    intake(source, out, ct_model)
    assert "2 cases already converted" in caplog.text
    assert times == {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    # A new patient whose folder comes first gets the next number; a damaged image and a changed
    # source are made anew.
    write_series(source / "a", patient_id="a")
    (out / "images" / "case_001_0000.nii.gz").write_bytes(b"short")
    shutil.rmtree(source / "d")
    write_series(
        source / "d",
        ramp(seed=9),
        patient_id="d",
        study_uid=read_source(source_file(out, "case_002")).channels[0].study_uid,
    )
    intake(source, out, ct_model)
    assert {row["folder"]: row["case"] for row in rows(out)} == {"a": "case_003", "b": "case_001", "d": "case_002"}
    second = state_of(out / "images")
    assert second["case_001_0000.nii.gz"][1] == first["case_001_0000.nii.gz"][1]
    assert second["case_002_0000.nii.gz"][1] != first["case_002_0000.nii.gz"][1]
    # One that is gone leaves its case.
    caplog.clear()
    shutil.rmtree(source / "b")
    assert intake(source, out, ct_model).cases == ("case_002", "case_003")
    assert "no longer in SRC, kept" in caplog.text and source_file(out, "case_001").exists()


def test_a_case_that_becomes_unusable_is_removed(tmp_path, ct_model):
    source, out = tmp_path / "src", tmp_path / "out"
    paths = write_series(source / "a", patient_id="a")
    write_series(source / "b", patient_id="b")
    intake(source, out, ct_model)
    paths[3].unlink()
    assert intake(source, out, ct_model).cases == ("case_002",)
    assert [path.name for path in (out / "images").iterdir()] == ["case_002_0000.nii.gz"]
    assert [path.name for path in (out / "sources").iterdir()] == ["case_002.json"]


def test_two_intakes_into_one_folder_lose_no_case(tmp_path, ct_model):
    """Refuse the second intake while the first one runs, since both would use the same numbers."""
    source, out = tmp_path / "src", tmp_path / "out"
    write_series(source / "a", patient_id="a")

    def second(*_, **__):
        write_series(source / "b", patient_id="b")
        with pytest.raises(InUse, match="is in use by process"):
            intake(source, out, ct_model)
        return convert(*_, **__)

    with pytest.MonkeyPatch.context() as patch:
        convert = intake_module.convert
        patch.setattr(intake_module, "convert", second)
        assert intake(source, out, ct_model).cases == ("case_001",)
    assert intake(source, out, ct_model, dry_run=True).cases == ("case_001", "case_002")
    assert intake(source, out, ct_model).cases == ("case_001", "case_002")
    assert sorted(path.name for path in out.iterdir()) == [
        "images",
        "intake.csv",
        "intake.json",
        "manifests",
        "sources",
    ]


def test_a_killed_run_goes_on(tmp_path, ct_model):
    source, out = tmp_path / "src", tmp_path / "out"
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 2000, (40, 160, 160)).astype(np.int16)
        write_series(source / f"{number}", noise, patient_id=str(number))
    command = [
        sys.executable,
        "-m",
        "nnunet_anatomix",
        "intake",
        str(source),
        str(out),
        "-m",
        ct_model,
        "--workers",
        "1",
    ]
    process = PythonProcess(command)
    while process.poll() is None and not (out / "sources" / "case_002.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    assert all(path.name.startswith("case_") for path in (out / "images").iterdir())
    done = {path.stem for path in (out / "sources").glob("case_*.json")}
    assert {"case_001", "case_002"} <= done
    times = {case: image_file(out, case, 0, ".nii.gz").stat().st_mtime_ns for case in done}
    assert {row["taken"] for row in rows(out)} <= {"waiting", "yes"}
    intake(source, out, ct_model)
    assert sorted(path.name for path in (out / "images").iterdir()) == [
        f"case_{n:03d}_0000.nii.gz" for n in range(1, 7)
    ]
    assert times == {case: image_file(out, case, 0, ".nii.gz").stat().st_mtime_ns for case in done}
    assert [row["taken"] for row in rows(out)] == ["yes"] * 6
    assert sorted(path.name for path in out.iterdir()) == [
        "images",
        "intake.csv",
        "intake.json",
        "manifests",
        "sources",
    ]


def test_several_processes_write_the_same(dump, tmp_path, ct_model):
    folder, _ = dump
    for workers in (1, 2):
        intake(folder, tmp_path / str(workers), ct_model, workers=workers)
    one, two = (
        {
            name: data
            for name, (_, data) in state_of(tmp_path / str(workers)).items()
            if not name.startswith("manifests")  # they tell the time
        }
        for workers in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize(("source", "destination"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_folders_within_each_other_are_refused(tmp_path, ct_model, source, destination):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(InputError, match="SRC and DST overlap"):
        intake(tmp_path / source, tmp_path / destination, ct_model)
    if sys.platform != "win32":
        (tmp_path / "link").symlink_to(tmp_path / "a")
        with pytest.raises(InputError, match="SRC and DST overlap"):
            intake(tmp_path / source, tmp_path / "link", ct_model)
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_destination_with_something_else_is_refused(tmp_path, ct_model):
    write_series(tmp_path / "src")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="has other content"):
        intake(tmp_path / "src", tmp_path / "out", ct_model)
    intake(tmp_path / "src", tmp_path / "mine", ct_model)
    write_series(tmp_path / "src2")
    with pytest.raises(InputError, match=r"another intake \(other source\)"):
        intake(tmp_path / "src2", tmp_path / "mine", ct_model)
    with pytest.raises(InputError, match=r"another intake \(other channels\)"):
        intake(tmp_path / "src", tmp_path / "mine", model_of(tmp_path / "other", "MRI"))
    for name in ("file", "none"):
        if name == "file":
            (tmp_path / name).write_text("")
        with pytest.raises(InputError, match="expected a folder"):
            intake(tmp_path / name, tmp_path / "x", ct_model)


def test_nothing_usable_is_an_error_with_a_table(tmp_path, ct_model):
    write_series(tmp_path / "src", modality="MR")
    with pytest.raises(CommandFailed, match=r"none of 1 scan found can be used; .*intake.csv says why"):
        intake(tmp_path / "src", tmp_path / "out", ct_model)
    assert rows(tmp_path / "out")[0]["reason"] == "modality MR, expected CT"


def test_pixels_that_cannot_be_decoded_cost_the_case_its_place(tmp_path, ct_model, caplog):
    for path in write_series(tmp_path / "src" / "a", coding="jpeg2000", patient_id="a"):
        data = bytearray(path.read_bytes())
        at = data.index(b"\xff\x4f\xff\x51")
        data[at : at + 60] = bytes(60)
        path.write_bytes(data)
    write_series(tmp_path / "src" / "b", patient_id="b")
    assert intake(tmp_path / "src", tmp_path / "out", ct_model).cases == ("case_002",)
    first = rows(tmp_path / "out")[0]
    assert first["taken"] == "no" and first["reason"] == "pixel data cannot be decoded (JPEG 2000 lossless)"
    assert "case_001 is not taken: channel 0: pixel data cannot be decoded" in caplog.text


def test_a_channel_that_hardly_covers_the_first_is_refused(tmp_path):
    ids = {"study_uid": generate_uid(), "frame_uid": generate_uid()}
    write_series(tmp_path / "src" / "ct", **ids)
    write_series(tmp_path / "src" / "mr", modality="MR", description="t1", origin_mm=(-92.0, 50.5, -290.0), **ids)
    with pytest.raises(CommandFailed):
        intake(tmp_path / "src", tmp_path / "out", model_of(tmp_path / "model", "CT", "T1"))
    ct, mr = rows(tmp_path / "out")
    assert "covers only" in mr["reason"] and "case not taken: channel 1" in ct["reason"]
    assert not list((tmp_path / "out" / "images").iterdir()) and not list((tmp_path / "out").glob("sources/*"))


def test_spreadsheets_get_no_formulas(tmp_path, ct_model):
    write_series(tmp_path / "src", description='=HYPERLINK("http://x")')
    assert rows(intake(tmp_path / "src", tmp_path / "out", ct_model))[0]["description"].startswith("'=")


def test_the_command(tmp_path, ct_model, monkeypatch):
    write_series(tmp_path / "Müller 1", description="Thorax ä")
    command = [sys.executable, "-m", "nnunet_anatomix", "intake", "Müller 1", "out", "-m", ct_model]
    mapping = ["--map", "0=description:Thorax*", "0=modality:CT"]
    dry = run_python([*command, "--dry-run", *mapping], cwd=tmp_path)
    assert dry.returncode == 0 and "Thorax ä" in dry.stdout and not (tmp_path / "out").exists(), dry.stderr
    monkeypatch.chdir(tmp_path)
    wet = run_here("nnunet-anatomix", *command[3:])
    assert wet.returncode == 0 and not wet.stdout and "1 case" in wet.stderr, wet.stderr
    assert not [word for word in IDENTIFYING if word in wet.stderr]
    bad = run_here("nnunet-anatomix", *command[3:], "--map", "5=description:x")
    assert bad.returncode == 1 and len(bad.stderr.splitlines()) == 1 and "the model's channels are 0 (CT)" in bad.stderr
