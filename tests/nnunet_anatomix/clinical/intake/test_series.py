"""Tests of DICOM series: every defect has its reason, and harmless variants are read."""

from __future__ import annotations

import copy
import logging
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedMRImage
from pydicom import dcmread
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.intake.series import Series
from pretraining.imaging.rejection import Unusable
from tests.nnunet_anatomix.clinical.dicom_series import AXIAL, CORONAL, SAGITTAL, ramp, write_series


def only_series(folder: Path) -> Series:
    series, strays = scan_tree(folder.resolve())
    assert len(series) == 1 and not strays
    return series[0]


def oblique() -> np.ndarray:
    """Return a random rotation; its rows are the directions of x, y and z."""
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned[2] = np.cross(turned[0], turned[1])
    return turned


@pytest.mark.parametrize(
    "direction", [AXIAL, CORONAL, SAGITTAL, oblique()], ids=["axial", "coronal", "sagittal", "oblique"]
)
@pytest.mark.parametrize("coding", ["explicit", "implicit", "deflated", "rle", "jpegls", "jpeg2000", "jpeg"])
def test_voxels_and_geometry_are_those_of_itk(tmp_path, direction, coding):
    paths = write_series(tmp_path, direction=direction, coding=coding, slope=2.0, intercept=-1000.0)
    series = only_series(tmp_path)
    assert not series.problem and [tmp_path / file for file in series.files] == paths
    image = read_series(tmp_path, series)
    oracle = sitk.ReadImage([str(path) for path in paths])
    assert np.array_equal(sitk.GetArrayFromImage(image), 2 * ramp() - 1000)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(oracle))
    for quantity in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(image, quantity)(), getattr(oracle, quantity)(), atol=1e-5)
    assert image.GetPixelID() == sitk.sitkInt16 and not image.GetMetaDataKeys()


def test_each_slice_is_rescaled_by_its_own_tags(tmp_path):
    def steeper(dataset, k):
        dataset.RescaleSlope = str(1 + 0.25 * k)

    write_series(tmp_path, modality="PT", intercept=0.0, change=steeper)
    image = read_series(tmp_path, only_series(tmp_path))
    expected = ramp() * (1 + 0.25 * np.arange(8))[:, None, None]
    assert np.allclose(sitk.GetArrayFromImage(image), expected)


def test_a_file_without_preamble_is_read(tmp_path):
    for path in write_series(tmp_path, coding="implicit"):
        data = path.read_bytes()
        (meta_bytes,) = struct.unpack("<I", data[140:144])
        path.write_bytes(data[144 + meta_bytes :])
        assert path.read_bytes()[:2] == b"\x08\x00"
    series = only_series(tmp_path)
    assert not series.problem
    assert np.array_equal(sitk.GetArrayFromImage(read_series(tmp_path, series)), ramp() - 1024)


def enhanced(folder: Path, change=lambda dataset: None, **series) -> Path:
    """Write a series as one multi-frame file and return its folder."""
    modality = series.setdefault("modality", "CT")
    slices = [dcmread(path) for path in write_series(folder / "single", **series)]
    for dataset in slices:  # highdicom wants names as the standard has them
        dataset.PatientName = dataset.ReferringPhysicianName = "A^B"
        dataset.Laterality, dataset.WindowCenter, dataset.WindowWidth = "", 40, 400
    converted = {"CT": LegacyConvertedEnhancedCTImage, "MR": LegacyConvertedEnhancedMRImage}[modality]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = converted(slices, generate_uid(), 1, generate_uid(), 1)
    change(whole)
    (folder / "multi").mkdir()
    whole.save_as(folder / "multi" / "whole")
    return folder / "multi"


def rescaled_by_frame(slopes):
    def change(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        for frame, slope in zip(dataset.PerFrameFunctionalGroupsSequence, slopes, strict=True):
            frame.PixelValueTransformationSequence = copy.deepcopy(shared)
            frame.PixelValueTransformationSequence[0].RescaleSlope = slope

    return change


@pytest.mark.parametrize("direction", [AXIAL, CORONAL, oblique()], ids=["axial", "coronal", "oblique"])
@pytest.mark.parametrize(
    ("modality", "slope", "intercept"),
    [("CT", 2.0, -1000.0), ("MR", 1.5, 3.0), ("MR", None, None)],
    ids=["CT", "MR", "MR as stored"],
)
def test_a_multi_frame_file_is_its_single_frames(tmp_path, direction, modality, slope, intercept):
    folder = enhanced(tmp_path, direction=direction, modality=modality, slope=slope, intercept=intercept)
    series, single = only_series(folder), only_series(tmp_path / "single")
    assert not series.problem and series.files == ("whole",) and sorted(series.frames) == list(range(1, 9))
    image, expected = read_series(folder, series), read_series(tmp_path / "single", single)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
    for quantity in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(image, quantity)(), getattr(expected, quantity)(), atol=1e-6)


def test_frames_with_rescale_tags_of_their_own(tmp_path):
    folder = enhanced(tmp_path / "same", rescaled_by_frame([3.0] * 8))
    image = read_series(folder, only_series(folder))
    assert np.array_equal(sitk.GetArrayFromImage(image), 3 * ramp() - 1024)
    folder = enhanced(tmp_path / "other", rescaled_by_frame([1.0, 2.0] * 4))
    series = only_series(folder)
    slopes = np.array([1.0, 2.0] * 4)[np.array(series.frames) - 1]
    assert np.array_equal(sitk.GetArrayFromImage(read_series(folder, series)), slopes[:, None, None] * ramp() - 1024)


def test_frames_without_places_or_with_one_place_are_refused(tmp_path):
    def without_places(dataset):
        del dataset.PerFrameFunctionalGroupsSequence

    def without_one(dataset):
        del dataset.PerFrameFunctionalGroupsSequence[-1]

    def at_one_place(dataset):
        first, second = dataset.PerFrameFunctionalGroupsSequence[:2]
        second.PlanePositionSequence = first.PlanePositionSequence

    for change, reason in (
        (without_places, "without frame positions"),
        (without_one, "8 frames, of which 7 are described"),
        (at_one_place, "duplicate slices"),
    ):
        assert reason in only_series(enhanced(tmp_path / change.__name__, change)).problem


def test_headers_longer_than_what_is_read_first(tmp_path):
    def long(dataset, k):
        dataset.add_new((0x0009, 0x1002), "OB", bytes(100_000))

    write_series(tmp_path, change=long)
    assert not only_series(tmp_path).problem


def test_identical_copies_are_left_out_and_said(tmp_path):
    paths = write_series(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for path in paths[:3]:
        shutil.copy(path, tmp_path / "b" / path.name)
    series = only_series(tmp_path)
    assert not series.problem and len(series.files) == 8 and "3 identical duplicates ignored" in series.notes


def set_tag(keyword, value, at=None):
    def change(dataset, k):
        if at is None or k in at:
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value(dataset, k) if callable(value) else value)

    return change


def moved(vector):
    """Return a change that shifts the position of slice k by ``vector(k)`` mm."""

    def change(dataset, k):
        dataset.ImagePositionPatient = [
            f"{mm:.6f}" for mm in np.asarray(dataset.ImagePositionPatient, float) + vector(k)
        ]

    return change


def coloured(dataset, k):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)


def wider(dataset, k):
    if k > 4:
        dataset.Columns, dataset.Rows = dataset.Rows, dataset.Columns


def two_frames(dataset, k):
    dataset.NumberOfFrames, dataset.PixelData = 2, 2 * dataset.PixelData


UNUSABLE = {
    "more tilt than any": (moved(lambda k: np.array([0, 3.0 * k, 0])), "gantry tilt of 50°"),
    "shift": (moved(lambda k: np.array([3.0 * (k == 4), 0, 0])), "shifted against each other"),
    "mixed spacing": (
        moved(lambda k: np.array([0, 0, 1.7 * (k > 3) + 0.9 * (k > 5)])),
        "mixed slice spacing: from 2.5 to 4.2 mm",
    ),
    "one slice aside": (moved(lambda k: np.array([0, 0, 0.6 * (k == 3)])), "mixed slice spacing"),
    "duplicate": (moved(lambda k: np.array([0, 0, -2.5 * (k == 7)])), "duplicate slices: 1 position of 7"),
    "no position": (set_tag("ImagePositionPatient", None, {2}), "1 file of 8 without ImagePositionPatient"),
    "no orientation": (set_tag("ImageOrientationPatient", None), "8 files of 8 without ImageOrientationPatient"),
    "no pixel spacing": (set_tag("PixelSpacing", None), "without PixelSpacing"),
    "no unit vectors": (set_tag("ImageOrientationPatient", [1, 0, 0, 0, 0.5, 0]), "does not hold unit vectors"),
    "no right angle": (set_tag("ImageOrientationPatient", [1, 0, 0, 0.6, 0.8, 0]), "not at a right angle"),
    "sizes": (wider, "slices differ in size (20×16, 16×20)"),
    "pixel spacings": (set_tag("PixelSpacing", [0.9, 0.9], {6, 7}), "slices differ in pixel spacing"),
    "no slope": (set_tag("RescaleSlope", None, {1}), "1 file of 8 without rescale tags"),
    "slope 0": (set_tag("RescaleSlope", 0), "rescale slope is 0"),
    "frame of reference": (
        set_tag("FrameOfReferenceUID", generate_uid(), {0, 1}),
        "have the same SeriesInstanceUID: they differ in frame of",
    ),
    "modality": (set_tag("Modality", "MR", {0, 1}), "differ in modality"),
    "patient": (set_tag("PatientID", "4712", {0, 1}), "differ in patient"),
    "study": (set_tag("StudyInstanceUID", generate_uid(), {3}), "differ in study"),
    "one instance twice": (
        set_tag("SOPInstanceUID", "1.2.3", {0, 1}),
        "two different files have the same SOPInstanceUID",
    ),
    "colour": (coloured, "colour image"),
    "inverted": (set_tag("PhotometricInterpretation", "MONOCHROME1"), "inverted (MONOCHROME1)"),
    "segmentation": (set_tag("Modality", "SEG"), "not a scan: segmentation"),
    "multi-frame": (two_frames, "multi-frame file without frame positions"),
    "short of pixels": (set_tag("Rows", 17), "fewer pixels than the header says"),
    "huge": (set_tag("Rows", 65535), "fewer pixels than the header says"),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_an_unusable_series_has_its_reason(tmp_path, how):
    change, reason = UNUSABLE[how]
    write_series(tmp_path, change=change)
    assert reason in only_series(tmp_path).problem


def test_missing_slices_are_counted(tmp_path):
    paths = write_series(tmp_path, ramp((8, 8, 20)))
    for k in (5, 6, 11):
        paths[k].unlink()
    assert "missing slices: 3 of 20" in only_series(tmp_path).problem


@pytest.mark.parametrize("coding", ["explicit", "implicit", "jpeg2000", "rle"])
@pytest.mark.parametrize("share", [0.6, 0.98])
def test_a_truncated_file_spoils_its_series(tmp_path, coding, share):
    path = write_series(tmp_path, ramp((64, 64, 8)), coding=coding)[3]
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "1 file of 8: file is truncated" in only_series(tmp_path).problem


@pytest.mark.parametrize("at", [b"\x20\x00\x0d\x00UI", b"\x08\x00\x60\x00CS"], ids=["before the UIDs", "at the start"])
def test_a_file_cut_before_its_series_uid_spoils_the_series_it_lies_with(tmp_path, at):
    path = write_series(tmp_path / "one")[7]
    write_series(tmp_path / "other")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(at)])
    series, strays = scan_tree(tmp_path.resolve())
    problems = {each.folder: each.problem for each in series if len(each.files) > 1}
    assert "1 damaged DICOM file in its folder" in problems["one"] and not problems["other"]
    assert any(
        "damaged" in reason for reason in [*(each.problem for each in series), *(stray.reason for stray in strays)]
    )


@pytest.mark.parametrize("left", [b"", bytes(100), bytes(4000)], ids=["nothing", "half a preamble", "zeros"])
def test_an_interrupted_copy_spoils_its_series(tmp_path, left):
    write_series(tmp_path)[7].write_bytes(left)
    (series,), strays = scan_tree(tmp_path.resolve())
    assert "1 damaged DICOM file in its folder" in series.problem and strays[0].reason == "empty file"


@pytest.mark.parametrize("name", [".done", ".lock", "DONE", "_SUCCESS", "IM00003.lock", ".IM00003.done", "lock"])
@pytest.mark.parametrize("content", [b"", bytes(100)], ids=["empty", "zeros"])
def test_a_marker_file_is_not_a_slice(tmp_path, name, content):
    write_series(tmp_path)
    (tmp_path / name).write_bytes(content)
    (series,), strays = scan_tree(tmp_path.resolve())
    assert not series.problem and not series.notes and strays[0].reason == "empty file"


@pytest.mark.parametrize("name", ["IM00009", "copy.dcm", "00009", "1.2.3.9", "a7.ima", "3f9c"])
def test_an_empty_file_named_like_a_slice_may_be_one(tmp_path, name):
    write_series(tmp_path)
    (tmp_path / name).write_bytes(b"")
    (series,), _ = scan_tree(tmp_path.resolve())
    assert "1 damaged DICOM file in its folder" in series.problem


def test_empty_files_named_by_letters_are_like_their_neighbours(tmp_path):
    for number, path in enumerate(write_series(tmp_path)):
        path.rename(tmp_path / f"slice_{'abcdefgh'[number]}_1")
    (tmp_path / "slice_h_1").write_bytes(b"")
    (series,), _ = scan_tree(tmp_path.resolve())
    assert "1 damaged DICOM file in its folder" in series.problem


def test_where_several_series_lie_a_damaged_file_is_a_remark(tmp_path):
    path = write_series(tmp_path, name="A{number}")[7]
    write_series(tmp_path, name="B{number}")
    (tmp_path / "C").write_bytes(path.read_bytes()[:300])
    series, _ = scan_tree(tmp_path.resolve())
    assert [each.problem for each in series] == ["", ""]
    assert all("possibly missing slices of this series" in each.notes[-1] for each in series)


def test_a_file_cut_after_the_series_uid_belongs_to_its_series(tmp_path):
    path = write_series(tmp_path)[7]
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x28\x00\x10\x00US")])
    assert "1 file of 8" in only_series(tmp_path).problem


def test_compressed_noise_is_no_scan(tmp_path):
    for path in write_series(tmp_path, coding="jpeg2000"):
        data = bytearray(path.read_bytes())
        at = data.index(b"\xe0\x7f\x10\x00") + 40
        data[at:-8] = bytes(len(data) - at - 8)
        path.write_bytes(data)
    series = only_series(tmp_path)
    with pytest.raises(Unusable, match=r"cannot be decoded \(JPEG 2000 lossless\)|all voxels are"):
        read_series(tmp_path, series)


def test_an_unknown_transfer_syntax_is_named(tmp_path):
    write_series(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.9\x00"))
    assert "transfer syntax 1.2.840.10008.1.2.9 cannot be decoded" in only_series(tmp_path).problem


def test_readers_quote_nothing(tmp_path, capfd, caplog, recwarn):
    def strange(dataset, k):
        dataset.PatientName = "Müller" * 20
        dataset.SeriesDescription = "Müller" * 20
        dataset.AccessionNumber = "Müller\\nMüller"
        dataset.PatientBirthDate = "Müller"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in write_series(tmp_path / "Müller", change=strange, coding="jpeg2000"):
            path.write_bytes(
                path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999").replace(b"\xff\x4f\xff\x51", bytes(4))
            )
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    recwarn.clear()
    series = only_series(tmp_path)
    with quiet_readers(), pytest.raises(Unusable):
        read_series(tmp_path, series)
    said = "".join(capfd.readouterr()) + caplog.text + "".join(str(warning.message) for warning in recwarn)
    assert not said


def test_damaged_numbers_are_named_but_not_quoted(tmp_path):
    path = write_series(tmp_path)[0]
    data = path.read_bytes()
    at = data.index(b"\x28\x00\x30\x00DS") + 8
    path.write_bytes(data[:at] + b"Hans" + data[at + 4 :])
    problem = only_series(tmp_path).problem
    assert "tag PixelSpacing is damaged" in problem and "Hans" not in problem


def test_series_without_uids_are_told_apart_by_folder(tmp_path):
    def nameless(dataset, k):
        dataset.SeriesInstanceUID = dataset.StudyInstanceUID = dataset.PatientID = dataset.SOPInstanceUID = ""

    for name in ("a", "b"):
        write_series(tmp_path / name, change=nameless)
    series, _ = scan_tree(tmp_path.resolve())
    assert [each.folder for each in series] == ["a", "b"] and not any(each.problem for each in series)
    assert series[0].case_key != series[1].case_key


def test_constant_volumes_are_refused(tmp_path):
    write_series(tmp_path, np.zeros((8, 16, 20), np.int16))
    with pytest.raises(Unusable, match="all voxels are -1024"):
        read_series(tmp_path, only_series(tmp_path))
