"""Tests of scans that no voxel grid holds: intake resamples, deliver returns to their slices."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.delivery.deliver import Delivery, deliver
from nnunet_anatomix.clinical.delivery.structures import read_structures
from nnunet_anatomix.clinical.dicom.resampling import labels_on_slices, resample_slices
from nnunet_anatomix.clinical.intake.intake import intake
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from pretraining.common.errors import CommandFailed, InputError
from pretraining.imaging.grids import Grid, image_on
from tests.nnunet_anatomix.clinical.dicom_series import AXIAL, ramp
from tests.nnunet_anatomix.clinical.frame_files import write_enhanced, write_mosaic, write_nuclear
from tests.nnunet_anatomix.clinical.intake_folder import write_prediction
from tests.nnunet_anatomix.clinical.phantom import Scan, dice, grid_points, intensities, labels, predict

EVEN = np.arange(30) * 2.5
HEAD = np.cumsum([0.0, *[2.5] * 10, *[5.0] * 10])
"""Thin slices at the skull base, thick ones above."""
TRANSITION = np.cumsum([0.0, *[2.5] * 10, 3.75, *[5.0] * 9])
JITTER = np.cumsum([0.0, *(2.5 + 0.4 * np.sin(np.arange(30)))])
FOLLOWING = np.cumsum([0.0, *([2.0, 2.0, 5.0] * 8)])
_TURN = np.deg2rad(12)
OBLIQUE = [[np.cos(_TURN), 0, np.sin(_TURN)], [0, 1, 0], [-np.sin(_TURN), 0, np.cos(_TURN)]]

SCANS = {
    "tilt": {"heights_mm": EVEN, "shear": (0, np.tan(np.deg2rad(18)))},
    "backward tilt": {"heights_mm": EVEN, "shear": (0, -np.tan(np.deg2rad(25)))},
    "sideways": {"heights_mm": EVEN, "shear": (0.1, -0.15)},
    "oblique tilt": {"heights_mm": EVEN, "shear": (0, 0.3), "direction": OBLIQUE},
    "two spacings": {"heights_mm": HEAD},
    "two spacings, tilted": {"heights_mm": HEAD, "shear": (0, 0.25)},
    "transition": {"heights_mm": TRANSITION},
    "jitter": {"heights_mm": JITTER},
    "smoothly growing": {"heights_mm": np.cumsum([0.0, *np.linspace(1.5, 4.0, 26)])},
    "alternating": {"heights_mm": np.cumsum([0.0, *[2.0, 3.0] * 14])},
    "downward": {"heights_mm": HEAD[::-1], "shear": (0, 0.2)},
    "following the thickness": {
        "heights_mm": FOLLOWING,
        "thicknesses_mm": [2.0, *np.diff(FOLLOWING)],
    },
}


def taken(tmp_path: Path, source: Path, channel: str = "CT") -> tuple[Path, sitk.Image, str]:
    """Take the only scan of a folder; returns the intake, the image and the remark in the table."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "dataset.json").write_text(json.dumps({"channel_names": {"0": channel}, "file_ending": ".nii.gz"}))
    intake(source, tmp_path / "intake", str(model))
    with (tmp_path / "intake" / "intake.csv").open(newline="", encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["taken"] == "yes"]
    image = sitk.ReadImage(str(tmp_path / "intake" / "images" / "case_001_0000.nii.gz"))
    return tmp_path / "intake", image, row["reason"]


def delivered(tmp_path: Path, prediction: sitk.Image, **settings: object) -> highdicom.seg.Segmentation:
    """Deliver a prediction with the labels 0, 1 and 2 and return its SEG."""
    write_prediction(tmp_path / "pred", prediction, labels={"background": 0, "large": 1, "small": 2})
    structures = read_structures(tmp_path / "pred" / "dataset.json")
    deliver(
        tmp_path / "pred",
        Delivery(
            intake=tmp_path / "intake",
            destination=tmp_path / "dst",
            structures=structures,
            **{"overview": False, **settings},
        ),
    )
    return highdicom.seg.segread(tmp_path / "dst" / "segmentations" / "case_001.dcm")


def masks(segmentation: highdicom.seg.Segmentation, files: list[Path]) -> np.ndarray:
    """Return (structures, N, rows, columns) masks on the source files."""
    instances = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]
    found = segmentation.get_pixels_by_source_instance(
        source_sop_instance_uids=instances, assert_missing_frames_are_empty=True
    )
    return np.moveaxis(found, -1, 0) > 0


@pytest.mark.parametrize("how", SCANS)
def test_labels_return_to_the_original_slices(tmp_path, how):
    scan = Scan(tmp_path / "src", **SCANS[how])
    _, image, reason = taken(tmp_path, tmp_path / "src")
    assert "resampled to a right-angled, even grid; a SEG is on the original slices" in reason
    assert ("gantry tilt of" in reason) == ("shear" in SCANS[how])
    assert ("slice spacing from" in reason) == (not np.allclose(np.diff(SCANS[how]["heights_mm"]), 2.5))
    segmentation = delivered(tmp_path, predict(image))
    found, truth = masks(segmentation, scan.files), labels(scan.points_mm)
    for number, label in enumerate((1, 2)):
        assert dice(found[number], truth == label) >= 0.98
    positions = {
        tuple(np.round(np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), 3))
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    }
    assert positions <= {tuple(np.round(place, 3)) for place in scan.positions_mm}


@pytest.mark.parametrize("how", ["backward tilt", "oblique tilt", "two spacings, tilted", "jitter", "downward"])
def test_resampled_values_are_those_of_the_phantom(tmp_path, how):
    scan = Scan(tmp_path / "src", **SCANS[how])
    _, image, _ = taken(tmp_path, tmp_path / "src")
    points, values = grid_points(image), sitk.GetArrayFromImage(image)
    direction = np.reshape(image.GetDirection(), (3, 3))
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-6)
    inside, between = scan.covers(points, margin_vox=1), scan.covers(points, margin_vox=-1000)
    outside = between & ~scan.covers(points, margin_vox=-3)
    # The phantom is smooth: linear interpolation over at most 5 mm errs by less than 5 HU.
    assert inside.mean() > 0.5 and np.abs(values - intensities(points))[inside].max() <= 5
    assert (values[outside] == values.min()).all()


def test_an_even_stack_is_not_resampled(tmp_path):
    scan = Scan(tmp_path / "src", EVEN, shear=(0, 0.3 / 72.5))  # less than half of a pixel in all
    _, image, reason = taken(tmp_path, tmp_path / "src")
    assert "resampled" not in reason
    assert np.array_equal(sitk.GetArrayFromImage(image), np.round(intensities(scan.points_mm)).astype(int))


def test_a_resampled_case_is_not_converted_again(tmp_path, caplog):
    Scan(tmp_path / "src", **SCANS["two spacings, tilted"])
    folder, _, _ = taken(tmp_path, tmp_path / "src")
    first = {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    with caplog.at_level("INFO"):
        intake(tmp_path / "src", folder, str(tmp_path / "model"))
    assert "1 case already converted" in caplog.text
    assert first == {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}


def test_other_channels_are_resampled_to_the_grid_of_a_tilted_one(tmp_path):
    ids = {"study_uid": generate_uid(), "frame_uid": generate_uid()}
    Scan(tmp_path / "src" / "ct", **SCANS["tilt"], **ids)
    Scan(tmp_path / "src" / "mr", EVEN, modality="MR", description="t1", slope=1.0, intercept=-1024.0, **ids)
    model = tmp_path / "model"
    model.mkdir()
    names = {"channel_names": {"0": "CT", "1": "T1"}, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(names))
    intake(tmp_path / "src", tmp_path / "intake", str(model))
    images = [sitk.ReadImage(str(tmp_path / "intake" / "images" / f"case_001_000{n}.nii.gz")) for n in (0, 1)]
    assert Grid.of(images[0]) == Grid.of(images[1])
    first, second = (sitk.GetArrayFromImage(image).astype(float) for image in images)
    both = (first > first.min()) & (second > second.min())
    assert both.mean() > 0.4 and np.percentile(np.abs(first - second)[both], 99) <= 5


def test_whole_pixels_of_tilt_change_no_value():
    values = ramp((20, 16, 5))
    positions = [(0.0, 2.0 * k, 3.0 * k) for k in range(5)]
    grid = Grid(size=(20, 24, 5), spacing_mm=(1, 1, 3), origin_mm=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    moved = resample_slices(values, positions, grid)
    for k in range(5):
        assert np.array_equal(moved[k, 2 * k : 2 * k + 16], values[k])
        outside = np.delete(moved[k], slice(2 * k, 2 * k + 16), axis=0)
        assert (outside == values.min()).all()
    seeds = np.random.default_rng(0).integers(0, 4, grid.size[::-1]).astype(np.uint8)
    back = labels_on_slices(seeds, grid, positions, (20, 16))
    assert all(np.array_equal(back[k], seeds[k, 2 * k : 2 * k + 16]) for k in range(5))


def test_labels_of_tall_volumes_return_chunk_by_chunk():
    """Whole planes of a label, gaps within one, and touching labels, over several chunks."""
    grid = Grid(size=(12, 10, 100), spacing_mm=(1, 1, 1), origin_mm=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    values = np.zeros(grid.size[::-1], np.uint8)
    values[10:50] = 1
    values[50:90, :, :6], values[95:98, :, 6:], values[20:70, 4:8, 4:8] = 2, 2, 3
    between = [(0.0, 0.0, k + 0.25) for k in range(99)]
    assert np.array_equal(labels_on_slices(values, grid, between, (12, 10)), values[:99])
    aside = [(2.0, 1.0, float(k)) for k in range(100)]
    back = labels_on_slices(values, grid, aside, (8, 7))
    assert np.array_equal(back, values[:, 1:8, 2:10])
    assert not labels_on_slices(np.zeros_like(values), grid, aside, (8, 7)).any()


MISSING = {
    "one": [2.5, 2.5, 2.5, 5.0, 2.5, 2.5, 2.5, 2.5],
    "two at once": [2.5, 2.5, 2.5, 7.5, 2.5, 2.5, 2.5, 2.5],
    "two spacings, one": [2.5, 2.5, 2.5, 2.5, 5.0, 2.5, 2.5, 2.5, 5.0, 5.0, 5.0, 5.0],
    "in growing gaps": [2.0, 2.2, 2.4, 2.6, 5.6, 3.0, 3.2, 3.4],
    "random": [2.5, 0.7, 6.1, 3.3, 1.9, 4.4, 0.9, 2.2],
}


@pytest.mark.parametrize("how", MISSING)
def test_missing_slices_are_not_taken_for_a_protocol(tmp_path, how):
    Scan(tmp_path, np.cumsum([0.0, *MISSING[how]]), thicknesses_mm=[2.5] * (len(MISSING[how]) + 1), size=(8, 8))
    (series,), _ = scan_tree(tmp_path.resolve())
    assert "missing slices" in series.problem or "mixed slice spacing" in series.problem


def test_missing_slices_of_overlapping_thick_ones_are_found(tmp_path):
    gaps = [2.5, 2.5, 2.5, 5.0, 2.5, 2.5, 2.5, 2.5]
    Scan(tmp_path, np.cumsum([0.0, *gaps]), thicknesses_mm=[5.0] * 9, size=(8, 8))
    (series,), _ = scan_tree(tmp_path.resolve())
    assert "missing slices: 1 of 10" in series.problem


def test_a_source_that_moved_in_space_is_refused(tmp_path):
    scan = Scan(tmp_path / "src", **SCANS["tilt"])
    _, image, _ = taken(tmp_path, tmp_path / "src")
    dataset = dcmread(scan.files[7])
    dataset.ImagePositionPatient = [mm + 1 for mm in dataset.ImagePositionPatient]
    dataset.save_as(scan.files[7])

    with pytest.raises(CommandFailed, match="slice 8 of 30: the geometry of the source series changed"):
        delivered(tmp_path, predict(image))


def frames_of(segmentation: highdicom.seg.Segmentation) -> dict[tuple[str, int | None, int], np.ndarray]:
    """Return (instance, frame of the source, segment) → mask of every frame of a SEG."""
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    found = {}
    for number, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        key = (str(source.ReferencedSOPInstanceUID), source.get("ReferencedFrameNumber"), segment)
        assert key not in found
        found[key] = pixels[number] > 0
    return found


def seeds_on(image: sitk.Image) -> tuple[sitk.Image, np.ndarray]:
    values = np.random.default_rng(3).integers(0, 3, image.GetSize()[::-1]).astype(np.uint8)
    return image_on(Grid.of(image), values), values


def enhanced_files(folder: Path) -> list[tuple[Path, int]]:
    uids = {name: generate_uid() for name in ("series_uid", "study_uid", "frame_uid")}
    places = [(-10.0, -20.0, 3.0 * k) for k in range(12)]
    voxels, slices = ramp((20, 16, 12)), []
    for number, frames in enumerate(([3, 1, 0, 2], [4, 5, 6, 7, 8], [9, 10, 11])):
        path = write_enhanced(folder / f"{number}", voxels[frames], [places[k] for k in frames], **uids)
        slices += [(k, path, frames.index(k) + 1) for k in frames]
    return [(path, frame) for _, path, frame in sorted(slices)]


def single_frames(folder: Path) -> list[tuple[Path, int]]:
    uids = {name: generate_uid() for name in ("series_uid", "study_uid", "frame_uid")}
    return [(write_enhanced(folder / f"{k}", ramp()[k : k + 1], [(0.0, 0.0, 2.0 * k)], **uids), 1) for k in range(8)]


def spect(folder: Path) -> list[tuple[Path, int]]:
    path = write_nuclear(folder / "a", ramp(), spacing_mm=-3.0)
    return [(path, 8 - k) for k in range(8)]


def one_of_two_echoes(folder: Path) -> list[tuple[Path, int]]:
    """Write two echoes in one file, of which the channel T2 te80 asks for the second."""
    planes = [ramp(seed=echo)[k] for k in range(8) for echo in (0, 1)]
    places = [(0.0, 0.0, 2.0 * k) for k in range(8) for _ in (0, 1)]

    def tags(frame):
        return {"MREchoSequence": {"EffectiveEchoTime": (20.0, 80.0)[frame % 2]}}

    path = write_enhanced(folder / "a", planes, places, tags, description="t2 tse")
    return [(path, 2 * k + 2) for k in range(8)]


@pytest.mark.parametrize(
    ("write", "channel"),
    [(one_of_two_echoes, "T2 te80"), (enhanced_files, "MRI"), (single_frames, "MRI"), (spect, "SPECT")],
)
def test_a_seg_refers_to_files_and_frames(tmp_path, write, channel):
    (tmp_path / "src").mkdir()
    slices = write(tmp_path / "src")
    _, image, _ = taken(tmp_path, tmp_path / "src", channel)
    prediction, values = seeds_on(image)
    segmentation = delivered(tmp_path, prediction)
    found = frames_of(segmentation)
    for k, (path, frame) in enumerate(slices):
        uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for segment in (1, 2):
            assert np.array_equal(found[uid, frame, segment], values[k] == segment)
    (series,) = segmentation.ReferencedSeriesSequence
    named = [str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence]
    expected = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path, _ in slices}
    assert len(named) == len(expected) and set(named) == expected


def test_the_seg_of_a_mosaic_has_the_places_of_its_slices(tmp_path):
    (tmp_path / "src").mkdir()
    path = write_mosaic(tmp_path / "src" / "a", ramp((20, 16, 10)), direction=AXIAL)
    _, image, _ = taken(tmp_path, tmp_path / "src", "MRI")
    prediction, values = seeds_on(image)
    segmentation = delivered(tmp_path, prediction)
    assert (segmentation.Rows, segmentation.Columns) == (16, 20)
    pixels = segmentation.pixel_array.reshape(-1, 16, 20)
    for number, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        z_mm = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert np.array_equal(pixels[number] > 0, values[round((z_mm - 5) / 3)] == segment)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == dcmread(path).SOPInstanceUID
        assert source.SpatialLocationsPreserved == "NO" and "ReferencedFrameNumber" not in source


def test_sources_may_move_to_another_folder(tmp_path):
    scan = Scan(tmp_path / "src", **SCANS["tilt"])
    _, image, _ = taken(tmp_path, tmp_path / "src")
    (tmp_path / "archive").mkdir()
    moved = (tmp_path / "src").rename(tmp_path / "archive" / "2024")

    with pytest.raises(CommandFailed, match="use --sources if SRC was moved"):
        delivered(tmp_path, predict(image))
    with pytest.raises(InputError, match="--sources: expected the folder that SRC was moved to"):
        delivered(tmp_path, predict(image), sources=tmp_path / "nowhere")
    segmentation = delivered(tmp_path, predict(image), sources=moved)
    found = masks(segmentation, [moved / path.name for path in scan.files])
    assert dice(found[0], labels(scan.points_mm) == 1) >= 0.98
    with pytest.raises(InputError, match="which must not be changed"):
        delivered(tmp_path, predict(image), sources=tmp_path)
