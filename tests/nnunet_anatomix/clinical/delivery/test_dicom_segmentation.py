"""Tests of DICOM SEG: voxels match the source slices, and segments describe their structures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import DataElement, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.cases import read_source, source_file, write_source
from nnunet_anatomix.clinical.delivery.deliver import Delivery, deliver
from nnunet_anatomix.clinical.delivery.dicom_segmentation import Algorithm
from nnunet_anatomix.clinical.delivery.records import SEGMENTATIONS
from nnunet_anatomix.clinical.delivery.source_headers import read_source_headers
from nnunet_anatomix.clinical.delivery.structure_codes import structure_code
from nnunet_anatomix.clinical.delivery.structures import read_structures
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from pretraining.common.errors import CommandFailed, InputError
from pretraining.imaging.grids import image_on
from tests.nnunet_anatomix.clinical.dicom_series import AXIAL, CORONAL, PATIENT, SAGITTAL, write_series
from tests.nnunet_anatomix.clinical.intake_folder import take_series, write_prediction

_TILT = np.deg2rad(20)
OBLIQUE = ((1, 0, 0), (0, np.cos(_TILT), np.sin(_TILT)), (0, -np.sin(_TILT), np.cos(_TILT)))
DOWNWARD = ((1, 0, 0), (0, 1, 0), (0, 0, -1))
"""Slice direction from head to foot, opposite to the normal x × y."""


def labels_of(size: tuple[int, int, int], *, greatest: int = 3, seed: int = 1) -> np.ndarray:
    """Return (Z, Y, X) labels without symmetry, whose first slice has no foreground."""
    labels = np.random.default_rng(seed).integers(0, greatest + 1, size[::-1]).astype(np.uint8)
    labels[0] = 0
    return labels


def delivered(
    tmp_path: Path, image: sitk.Image, *, case: str = "case_001", **settings: object
) -> highdicom.seg.Segmentation:
    """Deliver one prediction and return its SEG."""
    described = {key: settings.pop(key) for key in ("labels", "regions_class_order") if key in settings}
    write_prediction(tmp_path / "pred", image, case=case, **described)
    delivery = Delivery(
        intake=tmp_path / "intake",
        destination=tmp_path / "dst",
        structures=read_structures(tmp_path / "pred" / "dataset.json"),
        algorithm=Algorithm(model="Dataset001_Test", parameters={"trainer": "AnatomixTrainer"}),
        **{"format": "dicom", "overview": False, **settings},
    )
    deliver(tmp_path / "pred", delivery)
    return highdicom.seg.segread(tmp_path / "dst" / SEGMENTATIONS / f"{case}.dcm")


def assert_overlays(
    segmentation: highdicom.seg.Segmentation, instances: list[str], expected: dict[int, np.ndarray]
) -> None:
    """Assert that every segment equals its mask (Z, Y, X) on the slices of the given instances."""
    assert segmentation.segment_numbers == range(1, len(expected) + 1) or list(segmentation.segment_numbers) == list(
        expected
    )
    for number, mask in expected.items():
        found = segmentation.get_pixels_by_source_instance(
            source_sop_instance_uids=instances, segment_numbers=[number], assert_missing_frames_are_empty=True
        )
        assert np.array_equal(found[..., 0], mask)


@pytest.mark.parametrize(
    "direction, spacing_mm, coding",
    [
        (AXIAL, (0.8, 0.7, 2.5), "explicit"),
        (DOWNWARD, (0.8, 0.7, 5.0), "implicit"),
        (CORONAL, (1.1, 0.9, 1.3), "rle"),
        (SAGITTAL, (0.5, 1.5, 3.0), "jpeg2000"),
        (OBLIQUE, (0.8, 0.7, 2.5), "deflated"),
    ],
    ids=["axial", "downward", "coronal RLE", "sagittal JPEG 2000", "oblique"],
)
def test_every_segment_lies_on_its_source_slices(direction, spacing_mm, coding, tmp_path):
    files = write_series(tmp_path / "src" / "a b", direction=direction, spacing_mm=spacing_mm, coding=coding)
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    labels = labels_of(grid.size)
    segmentation = delivered(tmp_path, image_on(grid, labels))
    headers = [dcmread(file) for file in files]
    assert_overlays(segmentation, [header.SOPInstanceUID for header in headers], {n: labels == n for n in (1, 2, 3)})

    # The same by positions alone, as a viewer that knows nothing of instances finds them.
    volume = segmentation.get_volume(combine_segments=True)
    corners_mm = np.array(
        [header.ImagePositionPatient for header in headers[1:]], dtype=float
    )  # the first slice has no frame
    corners = volume.map_reference_to_indices(corners_mm, round_output=True, check_bounds=True)
    assert np.array_equal(corners[:, 1:], np.zeros((len(files) - 1, 2))) and np.array_equal(
        volume.array[corners[:, 0]], labels[1:]
    )


def test_the_segmentation_belongs_to_the_source(tmp_path):
    files = write_series(tmp_path / "src")
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    segmentation = delivered(tmp_path, image_on(grid, labels_of(grid.size)))
    source = dcmread(files[0])
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientBirthDate", "AccessionNumber"):
        assert segmentation.get(keyword) == source.get(keyword)
    assert str(segmentation.PatientName) == PATIENT and segmentation.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == {
        dcmread(f).SOPInstanceUID for f in files
    }
    assert not [element for element in segmentation.iterall() if element.tag.is_private]

    described = {one.segment_label: one for one in map(segmentation.get_segment_description, (1, 2, 3))}
    assert list(described) == ["liver", "kidney_left", "Größe 3"]
    liver, kidney, unknown = described.values()
    assert (
        liver.segmented_property_category == codes.SCT.AnatomicalStructure
        and liver.segmented_property_type == codes.SCT.Liver
    )
    assert (
        kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue
        == codes.SCT.Left.value
    )
    assert unknown.segmented_property_type == codes.SCT.Tissue
    assert liver.algorithm_type == highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    assert (
        liver.algorithm_identification.name == "nnunet-anatomix"
        and liver.algorithm_identification.source == "Dataset001_Test"
    )
    assert liver.algorithm_identification.parameters == {"trainer": "AnatomixTrainer"}
    assert len({tuple(one.RecommendedDisplayCIELabValue) for one in described.values()}) == 3


def test_regions_become_segments_that_overlap(tmp_path):
    files = write_series(tmp_path / "src")
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    labels = labels_of(grid.size)
    regions = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    segmentation = delivered(tmp_path, image_on(grid, labels), labels=regions, regions_class_order=[1, 2, 3])
    masks = {1: labels > 0, 2: labels > 1, 3: labels == 3}
    assert_overlays(segmentation, [dcmread(file).SOPInstanceUID for file in files], masks)
    assert segmentation.SegmentsOverlap == "YES"


def test_labels_need_not_be_consecutive_and_what_nobody_labelled_is_background(tmp_path):
    files = write_series(tmp_path / "src")
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    labels = labels_of(grid.size).astype(np.float32) * 100  # whole numbers, whatever their type
    named = {"background": 0, "second": 200, "first": 100, "ignore": 300}
    segmentation = delivered(tmp_path, image_on(grid, labels), labels=named)
    assert_overlays(
        segmentation, [dcmread(file).SOPInstanceUID for file in files], {1: labels == 100, 2: labels == 200}
    )


def test_an_empty_prediction_arrives_as_looked_for_and_not_found(tmp_path, caplog):
    files = write_series(tmp_path / "src")
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    with caplog.at_level("INFO"):
        segmentation = delivered(tmp_path, image_on(grid, np.zeros(grid.size[::-1], dtype=np.uint8)))
    assert "no structure found" in caplog.text
    assert (
        segmentation.number_of_segments == 3 and segmentation.NumberOfFrames == 3 and not segmentation.pixel_array.any()
    )
    (series,) = segmentation.ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == {
        dcmread(f).SOPInstanceUID for f in files
    }


@pytest.mark.parametrize("empty", [False, True])
def test_a_multi_frame_source_is_met_frame_by_frame(empty, tmp_path):
    slices = [dcmread(file) for file in write_series(tmp_path / "src" / "single")]
    order = [3, 0, 7, 1, 6, 2, 5, 4]  # slice of each frame
    enhanced = LegacyConvertedEnhancedCTImage(
        [slices[k] for k in order],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    enhanced.save_as(tmp_path / "src" / "enhanced")
    # By the file itself, since the converter may sort frames.
    z = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in enhanced.PerFrameFunctionalGroupsSequence
    ]
    frames = tuple(int(number) + 1 for number in np.argsort(z))
    assert list(frames) != sorted(frames)
    grid = take_series(
        tmp_path / "intake", tmp_path / "src", sorted((tmp_path / "src" / "single").iterdir(), key=_height)
    )
    link = source_file(tmp_path / "intake", "case_001")
    taken = read_source(link)
    uids = {"series_uid": str(enhanced.SeriesInstanceUID), "study_uid": str(enhanced.StudyInstanceUID)}
    write_source(
        tmp_path / "intake",
        replace(taken, channels=(replace(taken.channels[0], files=("enhanced",), frames=frames, **uids),)),
    )
    labels = labels_of(grid.size) * (not empty)
    segmentation = delivered(tmp_path, image_on(grid, labels))
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == enhanced.SeriesInstanceUID
    if empty:
        assert segmentation.NumberOfFrames == 3 and not segmentation.pixel_array.any()
        return
    for number in (1, 2, 3):
        found = segmentation.get_pixels_by_source_frame(
            enhanced.SOPInstanceUID, frames, segment_numbers=[number], assert_missing_frames_are_empty=True
        )
        assert np.array_equal(found[..., 0], labels == number)
    first = dcmread(tmp_path / "src" / "enhanced")
    first.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
    first.save_as(tmp_path / "src" / "enhanced")
    with pytest.raises(InputError, match="geometry of the source series changed since intake"):
        read_source_headers(read_source(link))


def _height(file: Path) -> float:
    return float(dcmread(file, stop_before_pixels=True).ImagePositionPatient[2])


def test_a_prediction_whose_file_runs_along_other_axes_is_put_in_order(tmp_path):
    files = write_series(tmp_path / "src", direction=CORONAL)
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    labels = labels_of(grid.size)
    turned = sitk.Flip(sitk.PermuteAxes(image_on(grid, labels), (2, 0, 1)), (True, False, True))
    segmentation = delivered(tmp_path, turned)
    assert_overlays(segmentation, [dcmread(file).SOPInstanceUID for file in files], {n: labels == n for n in (1, 2, 3)})


def test_headers_without_uids_get_the_same_ones_every_time(tmp_path):
    def strip(dataset, k):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
            setattr(dataset, keyword, "")
        for keyword in ("FrameOfReferenceUID", "PatientName", "StudyID", "AccessionNumber", "StudyTime"):
            delattr(dataset, keyword)
        dataset.PatientSex = "UNKNOWN"
        with quiet_readers():  # pydicom doubts it too
            dataset.PatientBirthDate = "19500000"

    files = write_series(tmp_path / "src", change=strip)
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    labels = labels_of(grid.size)
    segmentation = delivered(tmp_path, image_on(grid, labels))
    assert_overlays(segmentation, [dcmread(file).SOPInstanceUID for file in files], {n: labels == n for n in (1, 2, 3)})
    first, again = (read_source_headers(read_source(source_file(tmp_path / "intake", "case_001"))) for _ in range(2))
    assert first.generated_uids == ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    assert [first.images[0].get(keyword) for keyword in first.generated_uids] == [
        again.images[0].get(keyword) for keyword in again.generated_uids
    ]
    assert (
        segmentation.PatientBirthDate == segmentation.PatientSex == ""
        and segmentation.PatientID == dcmread(files[0]).PatientID
    )
    assert first.images[0].StudyInstanceUID == segmentation.StudyInstanceUID


@pytest.mark.parametrize("stored_mm", [0, -2.5, 4.0, 2.5])
def test_the_distance_of_slices_is_that_of_their_positions(stored_mm, tmp_path):
    def store(dataset, k):
        dataset.SpacingBetweenSlices = stored_mm

    files = write_series(tmp_path / "src", change=store)
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    segmentation = delivered(tmp_path, image_on(grid, labels_of(grid.size)))
    (measures,) = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SpacingBetweenSlices == 2.5


def move(dataset):
    dataset.ImagePositionPatient = [1.0, 2.0, 3.0]


def rename(dataset):
    dataset.SeriesInstanceUID = f"{dataset.SeriesInstanceUID[:-2]}.7"


@pytest.mark.parametrize(
    "change, message",
    [
        (move, "slice 3 of 8: the geometry of the source series changed since intake"),
        (rename, "slice 3 of 8 of the source belongs to another series"),
        (None, "slice 3 of 8 of the source series is missing"),
        ("cut", "slice 3 of 8"),
    ],
)
def test_a_source_that_changed_since_intake_is_refused_without_its_path(change, message, tmp_path):
    files = write_series(tmp_path / "src" / "Müller")
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    if change is None:
        files[2].unlink()
    elif change == "cut":
        files[2].write_bytes(files[2].read_bytes()[:300])
    else:
        dataset = dcmread(files[2])
        change(dataset)
        dataset.save_as(files[2])
    with pytest.raises(CommandFailed) as failure:
        delivered(tmp_path, image_on(grid, labels_of(grid.size)))
    assert (
        message in str(failure.value) and "Müller" not in str(failure.value) and files[2].name not in str(failure.value)
    )
    assert not list((tmp_path / "dst").rglob("*.dcm"))


def test_a_real_series_and_its_segmentation(data_root, tmp_path):
    folder = data_root / "dicom" / "ct_series"
    by_position = {
        float(dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]): path for path in folder.iterdir()
    }
    files = [by_position[z] for z in sorted(by_position)]
    take_series(tmp_path / "intake", folder.parent, files)
    true = sitk.ReadImage(str(data_root / "dicom" / "ct_series_seg.nii.gz"))  # its rows run the other way
    segmentation = delivered(tmp_path, true, labels={"background": 0, **{f"structure {n}": n for n in range(1, 118)}})
    labels = sitk.GetArrayFromImage(true)[:, ::-1]
    # The series was stripped of its UIDs; those of the slices are still in the files' meta
    # information.
    instances = [dcmread(file, stop_before_pixels=True).file_meta.MediaStorageSOPInstanceUID for file in files]
    assert segmentation.number_of_segments == 117
    for number in np.flatnonzero(np.bincount(labels.ravel()))[1:].tolist():
        found = segmentation.get_pixels_by_source_instance(
            instances, segment_numbers=[number], assert_missing_frames_are_empty=True
        )
        assert np.array_equal(found[..., 0], labels == number)


@pytest.mark.parametrize(
    "name, category, kind, side",
    [
        ("Left Atrium", "AnatomicalStructure", "LeftAtrium", None),
        ("heart_atrium_left", "Tissue", "Tissue", None),
        ("atrium_left", "AnatomicalStructure", "LeftAtrium", None),
        ("kidneyRight", "AnatomicalStructure", "Kidney", "Right"),
        ("lungs", "AnatomicalStructure", "Lung", None),
        ("vertebrae_L1", "AnatomicalStructure", "L1Vertebra", None),
        ("rib_left_4", "AnatomicalStructure", "Rib", "Left"),
        ("liver tumour", "MorphologicallyAbnormalStructure", "Neoplasm", None),
        ("oedema", "MorphologicallyAbnormalStructure", "Edema", None),
        ("structure 3", "Tissue", "Tissue", None),
        ("", "Tissue", "Tissue", None),
    ],
)
def test_known_names_have_their_code_and_others_none_of_their_own(name, category, kind, side):
    code = structure_code(name)
    assert code.category == getattr(codes.SCT, category) and code.type == getattr(codes.SCT, kind)
    assert code.side == (getattr(codes.SCT, side) if side else None)
    assert code.region == (codes.SCT.Liver if name == "liver tumour" else None)


@pytest.mark.parametrize(
    "keyword", ["StudyDate", "StudyTime", "PatientBirthDate", "PatientSize", "StudyID", "PixelSpacing"]
)
def test_a_damaged_tag_is_never_quoted(keyword, tmp_path, caplog, capfd):
    def damage(dataset, k):
        element = DataElement(keyword, "LO", "about noon, says Müller")
        dataset.add(element)

    files = write_series(tmp_path / "src", change=damage if keyword != "PixelSpacing" else None)
    grid = take_series(tmp_path / "intake", tmp_path / "src", files)
    if keyword == "PixelSpacing":
        for file in files:
            dataset = dcmread(file)
            damage(dataset, 0)
            dataset.save_as(file)
    try:
        segmentation = delivered(tmp_path, image_on(grid, labels_of(grid.size)))
    except CommandFailed as failure:
        assert "the headers of the source" in str(failure) or "no position, orientation or spacing" in str(failure)
        assert "Müller" not in str(failure)
    else:
        assert segmentation.number_of_segments == 3
    assert "Müller" not in caplog.text + "".join(capfd.readouterr())
