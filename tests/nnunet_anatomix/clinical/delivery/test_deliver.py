"""Tests of ``deliver``: files written, input refused, and no patient data in messages."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunet_anatomix.cli import main
from nnunet_anatomix.clinical.delivery import deliver as deliver_module
from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.delivery.overview import render_panels
from nnunet_anatomix.clinical.delivery.scan_planes import open_planes
from nnunet_anatomix.clinical.delivery.structure_colours import structure_colours
from nnunet_anatomix.clinical.delivery.structures import read_structures
from nnunet_anatomix.commands.deliver import deliver
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import InUse, hold_lock
from pretraining.imaging.grids import image_on, same_grid
from tests.nnunet_anatomix.clinical.dicom_series import PATIENT, PATIENT_NUMBER, SAGITTAL, write_series
from tests.nnunet_anatomix.clinical.intake_folder import LABELS, take_image, take_series, write_prediction
from tests.process_server import PythonProcess

CASES = ("case_001", "case_002")


@pytest.fixture
def clinic(tmp_path) -> SimpleNamespace:
    """Return folders with two DICOM cases after intake and prediction."""
    folders = SimpleNamespace(
        src=tmp_path / "src", intake=tmp_path / "intake", pred=tmp_path / "pred", dst=tmp_path / "dst"
    )
    folders.labels, folders.grids = {}, {}
    for number, case in enumerate(CASES):
        files = write_series(folders.src / f"Müller {number}", direction=SAGITTAL)
        grid = take_series(folders.intake, folders.src, files, case=case)
        labels = np.random.default_rng(number).integers(0, 3, grid.size[::-1]).astype(np.uint8)
        write_prediction(folders.pred, image_on(grid, labels), case=case)
        folders.labels[case], folders.grids[case] = labels, grid
    return folders


def run(clinic: SimpleNamespace, **options: object) -> None:
    deliver(clinic.pred, clinic.dst, intake=clinic.intake, **options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_case_gets_all_its_files(clinic):
    before = [state(folder) for folder in (clinic.src, clinic.intake, clinic.pred)]
    run(clinic)
    assert [state(folder) for folder in (clinic.src, clinic.intake, clinic.pred)] == before
    plain = ("segmentations", "nifti", "overviews")
    expected = {f"{place}/{case}{deliver_module.SUFFIXES[place]}" for case in CASES for place in plain}
    (manifest,) = (clinic.dst / "manifests").iterdir()
    assert state(clinic.dst).keys() == expected | {f"delivered/{case}.json" for case in CASES} | {
        "volumes.csv",
        "deliver.csv",
        f"manifests/{manifest.name}",
    }
    for case in CASES:
        image, scan = (
            sitk.ReadImage(str(clinic.dst / f"nifti/{case}.nii.gz")),
            clinic.intake / f"images/{case}_0000.nii.gz",
        )
        assert np.array_equal(sitk.GetArrayFromImage(image), clinic.labels[case]) and same_grid(
            image, sitk.ReadImage(str(scan))
        )
        assert imread(clinic.dst / f"overviews/{case}.png").shape[0] > 300
    assert [(row["case"], row["status"], row["notes"]) for row in rows(clinic.dst / "deliver.csv")] == [
        (c, "delivered", "") for c in CASES
    ]


def test_what_is_asked_for_is_written_and_what_no_longer_is_goes(clinic):
    def folders() -> set[str]:
        return {path.parent.name for path in clinic.dst.rglob("case_*") if path.parent.name in deliver_module.SUFFIXES}

    run(clinic, overview=False, dicom=DicomOptions(rtstruct=True, report=True, secondary_capture=True))
    assert folders() == deliver_module.SUFFIXES.keys() - {"overviews"}
    run(clinic, overview=False, dicom=DicomOptions(rtstruct=True))
    assert folders() == {"segmentations", "nifti", "rtstructs"}
    labels = clinic.labels["case_001"].copy()
    labels[0, 0, 0] = 9
    write_prediction(clinic.pred, image_on(clinic.grids["case_001"], labels), case="case_001")
    with pytest.raises(CommandFailed, match="1 of 2 cases failed"):
        run(clinic, overview=False, dicom=DicomOptions(rtstruct=True))
    assert not list(clinic.dst.rglob("case_001*"))


@pytest.mark.parametrize("wanted", ["rtstruct", "report", "secondary_capture"])
def test_dicom_objects_cannot_be_asked_for_without_dicom(wanted, clinic):
    with pytest.raises(InputError, match=r"--format nifti writes no DICOM.*use --format both"):
        run(clinic, format="nifti", dicom=DicomOptions(**{wanted: True}))
    assert not clinic.dst.exists()


def test_volumes_are_counts_times_the_voxels_volume(clinic):
    run(clinic, format="nifti", overview=False)
    table = rows(clinic.dst / "volumes.csv")
    assert [(row["case"], row["structure"]) for row in table] == [
        (case, name) for case in CASES for name in list(LABELS)[1:]
    ]
    for row in table:
        voxels = int((clinic.labels[row["case"]] == int(row["labels"])).sum())
        assert int(row["voxels"]) == voxels and float(row["volume_ml"]) == pytest.approx(
            voxels * 0.8 * 0.7 * 2.5 / 1000, rel=1e-5
        )


def test_regions_have_the_volume_of_all_their_labels(clinic):
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    for case in CASES:
        image = image_on(clinic.grids[case], clinic.labels[case])
        write_prediction(clinic.pred, image, case=case, labels=regions, regions_class_order=[1, 2])
    run(clinic, format="nifti", overview=False)
    table = {(row["case"], row["structure"]): int(row["voxels"]) for row in rows(clinic.dst / "volumes.csv")}
    for case, labels in clinic.labels.items():
        assert (table[case, "whole"], table[case, "core"]) == ((labels > 0).sum(), (labels == 2).sum())


def test_a_second_run_does_only_what_changed(clinic, caplog):
    run(clinic, overview=False)
    first = state(clinic.dst)
    with caplog.at_level("INFO"):
        run(clinic, overview=False)
    untouched = {name for name, was in state(clinic.dst).items() if was == first[name]}
    assert caplog.text.count("already done") == 2 and untouched == first.keys() - {"volumes.csv", "deliver.csv"}
    clinic.labels["case_002"][:] = 1
    write_prediction(clinic.pred, image_on(clinic.grids["case_002"], clinic.labels["case_002"]), case="case_002")
    (clinic.dst / "nifti/case_001.nii.gz").unlink()
    run(clinic, overview=False)
    now = state(clinic.dst)
    assert (
        "nifti/case_001.nii.gz" in now
        and now["segmentations/case_002.dcm"][1] != first["segmentations/case_002.dcm"][1]
    )
    assert np.array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(clinic.dst / "nifti/case_002.nii.gz"))), clinic.labels["case_002"]
    )
    run(clinic, format="nifti", overview=False)
    assert not list((clinic.dst / "segmentations").iterdir())


def test_a_case_that_fails_does_not_stop_the_rest_and_leaves_nothing_misleading(clinic):
    run(clinic, overview=False)
    kept = state(clinic.dst)["segmentations/case_002.dcm"]
    labels = clinic.labels["case_001"].copy()
    labels[0, 0, 0] = 9
    write_prediction(clinic.pred, image_on(clinic.grids["case_001"], labels), case="case_001")
    with pytest.raises(CommandFailed, match=r"1 of 2 cases failed.*label 9, expected labels of dataset.json: 0 to 3"):
        run(clinic, overview=False)
    assert not list(clinic.dst.rglob("case_001*")) and state(clinic.dst)["segmentations/case_002.dcm"] == kept
    assert [(row["case"], row["status"]) for row in rows(clinic.dst / "deliver.csv")] == [
        ("case_002", "delivered"),
        ("case_001", "failed"),
    ]
    assert {row["case"] for row in rows(clinic.dst / "volumes.csv")} == {"case_002"}


def test_what_is_delivered_survives_a_source_that_is_gone(clinic):
    run(clinic, format="nifti", overview=False)
    kept = state(clinic.dst)["nifti/case_001.nii.gz"]
    clinic.src.rename(clinic.src.with_name("elsewhere"))
    with pytest.raises(CommandFailed, match=r"2 of 2 cases failed.*slice 1 of 8 of the source series is missing"):
        run(clinic, overview=False)
    assert state(clinic.dst)["nifti/case_001.nii.gz"] == kept
    run(clinic, format="nifti", overview=False)


def test_a_source_that_is_no_dicom_gets_nifti_and_this_is_said(tmp_path, caplog):
    scan = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32))
    scan.SetSpacing((1.0, 2.0, 3.0))
    scan.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    (tmp_path / "src").mkdir()
    sitk.WriteImage(scan, str(tmp_path / "src" / "scan.nrrd"))
    grid = take_image(tmp_path / "intake", tmp_path / "src" / "scan.nrrd")
    labels = np.random.default_rng(1).integers(0, 4, (6, 7, 8)).astype(np.uint8)
    write_prediction(tmp_path / "pred", image_on(grid, labels))
    with caplog.at_level("INFO"):
        deliver(tmp_path / "pred", tmp_path / "dst", intake=tmp_path / "intake", format="dicom")
    assert "the source is not DICOM: NIfTI instead of DICOM SEG" in caplog.text
    assert not list((tmp_path / "dst").rglob("*.dcm"))
    written = sitk.ReadImage(str(tmp_path / "dst/nifti/case_001.nii.gz"))
    assert same_grid(written, scan) and np.array_equal(sitk.GetArrayFromImage(written), labels)


def probabilities(clinic, image):
    return sitk.Compose(image, image)


def fractions(clinic, image):
    return sitk.Cast(image, sitk.sitkFloat32) + 0.5


def holes(clinic, image):
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    values[0, 0, 0] = np.nan
    return image_on(clinic.grids["case_001"], values)


def negative(clinic, image):
    return sitk.Cast(image, sitk.sitkInt16) - 1


def shifted(clinic, image):
    image.SetOrigin([mm + 0.1 for mm in image.GetOrigin()])
    return image


def cropped(clinic, image):
    return image[:, :, 1:]


@pytest.mark.parametrize(
    "change, message",
    [
        (probabilities, "values per voxel"),
        (fractions, "NaN or fractions"),
        (holes, "1 voxel is NaN on disk"),
        (negative, "label -1"),
        (shifted, "predict again from the images of intake"),
        (cropped, "the prediction has 20 x 16 x 7 voxels"),
    ],
)
def test_a_prediction_that_is_none_of_this_scan_is_refused(change, message, clinic):
    image = change(clinic, image_on(clinic.grids["case_001"], clinic.labels["case_001"]))
    write_prediction(clinic.pred, image, case="case_001")
    with pytest.raises(CommandFailed, match=message):
        run(clinic, format="nifti", overview=False)
    assert [path.name for path in (clinic.dst / "nifti").iterdir()] == ["case_002.nii.gz"]


def no_predictions(clinic):
    for path in clinic.pred.glob("*.nii.gz"):
        path.unlink()


def no_labels(clinic):
    (clinic.pred / "dataset.json").unlink()


def no_intake(clinic):
    clinic.intake = clinic.src


def damaged_labels(clinic):
    (clinic.pred / "dataset.json").write_text('{"labels": {"liver": 1.5}}')


def only_background(clinic):
    (clinic.pred / "dataset.json").write_text('{"labels": {"background": 0}}')


def contradicting_regions(clinic):
    (clinic.pred / "dataset.json").write_text(
        '{"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [2, 1]}'
    )


def inside_predictions(clinic):
    clinic.dst = clinic.pred / "out"


def inside_source(clinic):
    clinic.dst = clinic.src / "out"


def around_predictions(clinic):
    clinic.pred = clinic.pred.rename(clinic.pred.parent / "nifti")
    clinic.dst = clinic.pred.parent


def two_of_a_case(clinic):
    (clinic.pred / "case_001.nrrd").write_bytes(b"")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (no_predictions, "no predictions in"),
        (no_labels, "no dataset.json in"),
        (no_intake, "was not written by nnunet-anatomix intake"),
        (damaged_labels, "expected labels as names with a number"),
        (only_background, "expected foreground labels from 1"),
        (contradicting_regions, "regions_class_order"),
        (inside_predictions, "must not be changed"),
        (inside_source, "must not be changed"),
        (around_predictions, "must not be changed"),
        (two_of_a_case, "belong to one case"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(spoil, message, clinic):
    spoil(clinic)
    before = state(clinic.pred.parent)
    with pytest.raises(InputError, match=message) as failure:
        run(clinic)
    assert "\n" not in str(failure.value) and state(clinic.pred.parent) == before


def test_a_prediction_without_link_is_named(clinic):
    write_prediction(clinic.pred, image_on(clinic.grids["case_001"], clinic.labels["case_001"]), case="stranger")
    with pytest.raises(CommandFailed, match=r"1 of 3 cases failed.*intake has no case of this name"):
        run(clinic, format="nifti", overview=False)


def test_labels_are_those_of_the_model_that_is_named(clinic, tmp_path):
    model = tmp_path / "AnatomixTrainer__nnUNetPlans__3d_fullres"
    model.mkdir()
    named = {"labels": {"background": 0, "lung": 1, "heart": 2}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(named))
    run(clinic, model=str(model), overview=False)
    assert {row["structure"] for row in rows(clinic.dst / "volumes.csv")} == {"lung", "heart"}
    assert b"trainer=AnatomixTrainer" in (clinic.dst / "segmentations/case_001.dcm").read_bytes()


def test_nothing_but_dicom_objects_tells_a_patient(clinic, monkeypatch, capfd, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(
        sys,
        "argv",
        [
            *("nnunet-anatomix", "deliver", str(clinic.pred), str(clinic.dst), "--intake", str(clinic.intake)),
            *("--rtstruct", "--report", "--secondary-capture"),
        ],
    )
    main()
    for path in (clinic.src / "Müller 0").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    (clinic.pred / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    with pytest.raises(SystemExit, match="1 of 2 cases failed"):
        main()
    told = caplog.text + "".join(capfd.readouterr()) + "".join(str(path) for path in clinic.dst.rglob("*"))
    assert told.count("2 of 3 structures") == 2 and "case_001 failed" in told
    told += "".join(
        path.read_text(encoding="utf-8") for path in clinic.dst.rglob("*") if path.suffix in (".csv", ".json")
    )
    secrets = ("Müller", "Jürgen", PATIENT, PATIENT_NUMBER, "19501231", "Schröder", "ACC-0815", "Geheim")
    assert not [secret for secret in secrets if secret in told]
    for folder in ("segmentations", "rtstructs", "reports", "secondary_captures"):
        assert PATIENT.encode() in (clinic.dst / folder / "case_002.dcm").read_bytes()


def test_killed_at_any_time_the_next_run_completes_what_is_missing(clinic):
    command = [
        sys.executable,
        "-m",
        "nnunet_anatomix",
        "deliver",
        str(clinic.pred),
        str(clinic.dst),
        "--intake",
        str(clinic.intake),
    ]
    process = PythonProcess(command)
    while process.poll() is None and not (clinic.dst / "nifti" / "case_001.nii.gz").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    for path in clinic.dst.rglob("case_*"):  # each whole, or not there
        if path.suffix == ".gz":
            assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), clinic.labels[path.name[:8]])
    run(clinic)
    assert {row["status"] for row in rows(clinic.dst / "deliver.csv")} == {"delivered"} and len(
        list(clinic.dst.rglob("case_*"))
    ) >= 8


def test_asked_to_stop_it_stops_at_once_and_tells_what_is_delivered(clinic, monkeypatch):
    real = deliver_module._deliver_case

    def stopping(case, *arguments):
        if case == "case_002":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        return real(case, *arguments)

    monkeypatch.setattr(deliver_module, "_deliver_case", stopping)
    with pytest.raises(CommandFailed, match="stopped at case 2 of 2; run the same command again"):
        run(clinic, overview=False)
    assert [row["case"] for row in rows(clinic.dst / "deliver.csv")] == ["case_001"]


def test_two_deliveries_into_one_folder_at_once_are_refused(clinic):
    with hold_lock(clinic.dst), pytest.raises(InUse, match="is in use by process"):
        run(clinic, overview=False)
    assert not clinic.dst.exists()


def test_the_overview_shows_structures_where_they_are_whatever_the_orientation(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "spot": 1, "absent": 2}}))
    structures, colours = read_structures(tmp_path / "dataset.json"), structure_colours(2)
    values = np.full((20, 30, 40), 100, dtype=np.int16)
    labels = np.zeros((20, 30, 40), dtype=np.uint8)
    labels[15:18, 3:7, 30:38] = 1  # high, in front, left: an LPS image
    upright = [sitk.GetImageFromArray(array) for array in (values, labels)]
    for image in upright:
        image.SetSpacing((1.0, 1.0, 2.0))
    panels = render_panels(*upright, structures, is_ct=True)
    where = {
        view: np.argwhere(np.abs(panel - colours[0]).max(axis=-1) < 1e-6) / panel.shape[:2]
        for view, panel in panels.items()
    }
    assert where["axial"][:, 0].max() < 0.3 and where["axial"][:, 1].min() > 0.7
    assert where["coronal"][:, 0].max() < 0.3 and where["coronal"][:, 1].min() > 0.7
    assert where["sagittal"][:, 0].max() < 0.3 and where["sagittal"][:, 1].max() < 0.3
    turned = render_panels(*(sitk.DICOMOrient(image, "SRA") for image in upright), structures, is_ct=True)
    assert all(np.allclose(turned[view], panels[view]) for view in panels)
    for ending in (".nii.gz", ".nrrd", ".mha", ".nii"):
        sitk.WriteImage(upright[0], str(tmp_path / f"scan{ending}"), useCompression=ending != ".nii")
        streamed = render_panels(open_planes(tmp_path / f"scan{ending}"), upright[1], structures, is_ct=True)
        assert all(np.array_equal(streamed[view], panels[view]) for view in panels)
    assert panels["coronal"].shape[0] == pytest.approx(panels["coronal"].shape[1], abs=2)  # 40 mm by 40 mm
