"""Tests of series with several volumes, and of files with several slices."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.intake.intake import intake
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.intake.series import Series
from tests.nnunet_anatomix.clinical.dicom_series import CORONAL, ramp, write_series
from tests.nnunet_anatomix.clinical.frame_files import write_enhanced, write_mosaic, write_nuclear

MR = {"modality": "MR", "slope": None, "intercept": None}


def one_series() -> dict[str, str]:
    return {"series_uid": generate_uid(), "study_uid": generate_uid(), "frame_uid": generate_uid()}


def volumes_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the values of all volumes by name, checked to be usable."""
    series, _ = scan_tree(folder.resolve())
    assert not [each.problem for each in series if each.problem]
    return {each.volume: sitk.GetArrayFromImage(read_series(folder.resolve(), each)) for each in series}


def set_tags(**tags):
    def change(dataset, k):
        for keyword, value in tags.items():
            setattr(dataset, keyword, value(k) if callable(value) else value)

    return change


def private_b_value(creator: str, group: int, element: int, vr: str, encode=lambda b: b):
    def changed(b_value):
        def change(dataset, k):
            dataset.private_block(group, creator, create=True).add_new(element, vr, encode(b_value))

        return change

    return changed


TAGS = {
    "echoes": ([12.3, 80.0], "echo_time={:g}", lambda value: set_tags(EchoTime=value)),
    "b-values": ([0.0, 1000.0], "b_value={:g}", lambda value: set_tags(DiffusionBValue=value)),
    "inversions": ([150, 2500], "inversion_time={:g}", lambda value: set_tags(InversionTime=value)),
    "flip angles": ([5, 30], "flip_angle={:g}", lambda value: set_tags(FlipAngle=value)),
    "dynamics": ([1, 2], "temporal_position={:g}", lambda value: set_tags(TemporalPositionIdentifier=value)),
    "acquisitions": ([1, 2], "acquisition={:g}", lambda value: set_tags(AcquisitionNumber=value)),
    "Dixon": (["IN", "W"], "image_type={}", lambda value: set_tags(ImageType=["ORIGINAL", "PRIMARY", value])),
    "phase": (["M", "P"], "image_type={}", lambda value: set_tags(ImageType=["ORIGINAL", "PRIMARY", value])),
    "Siemens": ([0, 800], "b_value={:g}", private_b_value("SIEMENS MR HEADER", 0x19, 0x0C, "IS")),
    "Philips": ([0.0, 800.0], "b_value={:g}", private_b_value("Philips Imaging DD 001", 0x2001, 0x03, "FL")),
    "GE": (
        [50, 800],
        "b_value={:g}",
        private_b_value("GEMS_PARM_01", 0x43, 0x39, "IS", lambda b: [b + 10**9, 8, 0, 0]),
    ),
}


@pytest.mark.parametrize("how", TAGS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_series_of_two_volumes_is_split(tmp_path, how, interleaved):
    values, label, change = TAGS[how]
    ids = one_series()
    for number, value in enumerate(values):

        def changed(dataset, k, number=number, value=value):
            dataset.InstanceNumber = 2 * k + number + 1 if interleaved else number * 8 + k + 1
            change(value)(dataset, k)

        write_series(tmp_path / str(number), ramp(seed=number), change=changed, **MR, **ids)
    found = volumes_of(tmp_path)
    assert list(found) == [label.format(value) for value in values]
    for number, voxels in enumerate(found.values()):
        assert np.array_equal(voxels, ramp(seed=number))


@pytest.mark.parametrize("order", ["volume after volume", "slice after slice"])
def test_equal_positions_without_other_tags_are_told_apart_by_their_order(tmp_path, order):
    ids = one_series()
    for number in range(3):

        def changed(dataset, k, number=number):
            dataset.InstanceNumber = number * 8 + k + 1 if order == "volume after volume" else 3 * k + number + 1
            dataset.TriggerTime = 100 * number + k  # differs in every slice

        write_series(tmp_path / "abc"[2 - number], ramp(seed=number), change=changed, **MR, **ids)
    found = volumes_of(tmp_path)
    assert list(found) == ["volume=1", "volume=2", "volume=3"]
    for number, voxels in enumerate(found.values()):
        assert np.array_equal(voxels, ramp(seed=number))


def test_directions_of_one_b_value_are_numbered(tmp_path):
    ids = one_series()
    for number, b_value in enumerate((0, 1000, 1000)):
        change = set_tags(DiffusionBValue=float(b_value), InstanceNumber=lambda k, number=number: 10 * number + k + 1)
        write_series(tmp_path / str(number), ramp(seed=number), change=change, **MR, **ids)
    found = volumes_of(tmp_path)
    assert list(found) == ["b_value=0", "b_value=1000 volume=1", "b_value=1000 volume=2"]
    assert all(np.array_equal(voxels, ramp(seed=number)) for number, voxels in enumerate(found.values()))


def test_an_aborted_dynamic_spoils_no_other(tmp_path):
    ids = one_series()
    for number in range(4):
        paths = write_series(
            tmp_path / str(number), change=set_tags(TemporalPositionIdentifier=number + 1), **MR, **ids
        )
    for path in paths[:5]:
        path.unlink()
    series, _ = scan_tree(tmp_path.resolve())
    assert [each.known_grid.size[2] for each in series] == [8, 8, 8, 3]


def test_a_damaged_file_voids_all_volumes_of_the_only_series_in_its_folder(tmp_path):
    ids = one_series()
    for number in range(2):
        change = set_tags(EchoTime=10.0 * (number + 1))
        paths = write_series(tmp_path, name=f"{number}" + "_{number}", change=change, **MR, **ids)
    paths[3].write_bytes(b"")
    series, _ = scan_tree(tmp_path.resolve())
    assert len(series) == 2 and all(each.problem for each in series)


def test_echoes_at_positions_of_their_own_are_volumes(tmp_path):
    change = set_tags(EchoTime=lambda k: 10 + 70 * (k % 2))
    write_series(tmp_path, ramp((20, 16, 12)), change=change, **MR)
    found = volumes_of(tmp_path)
    assert list(found) == ["echo_time=10", "echo_time=80"]
    assert np.array_equal(found["echo_time=80"], ramp((20, 16, 12))[1::2])


def test_one_position_twice_is_not_a_volume(tmp_path):
    def doubled(dataset, k):
        if k == 7:
            dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], "-285.25"]

    write_series(tmp_path, change=doubled)
    (series,), _ = scan_tree(tmp_path.resolve())
    assert "duplicate slices: 1 position of 7" in series.problem


def scouted(folder: Path, **ids: str) -> None:
    """Write an axial series with coronal scouts of another size."""
    write_series(folder / "b", **{**MR, **ids})
    write_series(folder / "a", ramp((30, 24, 2)), direction=CORONAL, spacing_mm=(2.0, 2.0, 8.0), **{**MR, **ids})


def table(source: Path, tmp_path: Path, *channels: str, maps: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Return the rows of a dry run for a model with these channels."""
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    described = {"channel_names": {str(n): name for n, name in enumerate(channels)}, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(described))
    done = intake(source, tmp_path / "none", str(model), maps=maps, dry_run=True)
    return list(csv.DictReader(io.StringIO(done.table)))


def taken(rows: list[dict[str, str]]) -> list[str]:
    return [row["volume"] for row in rows if row["taken"] == "waiting"]


def test_scouts_within_a_series_do_not_spoil_it(tmp_path):
    scouted(tmp_path / "src", **one_series())
    rows = table(tmp_path / "src", tmp_path, "MRI")
    assert taken(rows) == ["plane=axial"]
    assert [row["reason"] for row in rows if row["volume"] == "plane=coronal"] == ["only 2 slices"]
    assert taken(table(tmp_path / "src", tmp_path, "x", maps=("0=modality:MR",))) == ["plane=axial"]


def leaning(dataset, k):
    if k > 6:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.98, 0.199]


def longer_echo(dataset, k):
    if k > 6:
        dataset.EchoTime = 99


@pytest.mark.parametrize("change", [leaning, longer_echo])
def test_a_part_of_a_damaged_series_is_not_taken(tmp_path, change):
    write_series(tmp_path / "src", change=change, **MR)
    rows = table(tmp_path / "src", tmp_path, "MRI")
    assert len(rows) == 2 and not taken(rows)
    assert "one of 2 volumes of its series; to take it, use --map" in rows[0]["reason"]


def test_parts_of_other_sizes_that_do_not_overlap_stay_one_damaged_series(tmp_path):
    ids = one_series()
    write_series(tmp_path / "a", ramp((20, 16, 6)), **ids)
    write_series(tmp_path / "b", ramp((24, 16, 6)), origin_mm=(-100, 50.5, -200), **ids)
    (series,), _ = scan_tree(tmp_path.resolve())
    assert "slices differ in size" in series.problem


def diffusion(folder: Path, description: str = "ep2d_diff") -> None:
    ids = one_series()
    for b_value in (0.0, 500.0, 1000.0):
        change = set_tags(DiffusionBValue=b_value)
        write_series(folder / f"{b_value}", description=description, change=change, **MR, **ids)


def test_no_volume_is_taken_unless_one_is_asked_for(tmp_path):
    diffusion(tmp_path / "src")
    rows = table(tmp_path / "src", tmp_path, "MRI")
    assert not taken(rows)
    assert rows[1]["reason"].endswith('one of 3 volumes of its series; to take it, use --map "0=volume:b_value=500"')
    offered = rows[1]["reason"].split('"')[1]
    assert taken(table(tmp_path / "src", tmp_path, "MRI", maps=(offered,))) == ["b_value=500"]
    rows = table(tmp_path / "src", tmp_path, "MRI", maps=(f"0=series:{rows[0]['series_uid']}", "0=volume:*=1000"))
    assert taken(rows) == ["b_value=1000"]
    assert not taken(table(tmp_path / "src", tmp_path, "MRI", maps=(f"0=series:{rows[0]['series_uid']}",)))


def test_channels_ask_by_words(tmp_path):
    diffusion(tmp_path / "src", "t2 dwi")
    rows = table(tmp_path / "src", tmp_path, "dwi_b0", "dwi_b1000")
    assert {row["volume"]: row["channel"] for row in rows if row["taken"] == "waiting"} == {
        "b_value=0": "0",
        "b_value=1000": "1",
    }
    assert "the channel asks for b1000" in rows[1]["reason"] or "does not contain" in rows[1]["reason"]
    ids = one_series()
    for kind in ("IN", "OPP", "W", "F"):
        change = set_tags(ImageType=["ORIGINAL", "PRIMARY", kind])
        write_series(tmp_path / "dixon" / kind, description="t1_vibe_dixon", change=change, **MR, **ids)
    rows = table(tmp_path / "dixon", tmp_path, "T1 water", "T1 opposed-phase")
    assert {row["volume"]: row["channel"] for row in rows if row["taken"] == "waiting"} == {
        "image_type=W": "0",
        "image_type=OPP": "1",
    }


DERIVED = ("DERIVED", "PRIMARY", "DIXON")


@pytest.mark.parametrize("one_uid", [True, False])
def test_derived_dixon_images_are_taken_if_a_channel_asks_for_them(tmp_path, one_uid):
    study, ids = one_series(), one_series()
    for kind in ("IN_PHASE", "OPP_PHASE", "WATER", "FAT"):
        ids = ids if one_uid else {**study, "series_uid": generate_uid()}
        change = set_tags(ImageType=[*DERIVED, kind])
        write_series(tmp_path / "src" / kind, description="t1_vibe_dixon", change=change, **MR, **ids)
    rows = table(tmp_path / "src", tmp_path, "T1 water", "T1 in-phase")
    found = {row["image_type"].split("\\")[-1]: row["channel"] for row in rows if row["taken"] == "waiting"}
    assert found == {"WATER": "0", "IN_PHASE": "1"}
    rows = table(tmp_path / "src", tmp_path, "T1")
    assert not [row for row in rows if row["taken"] == "waiting"]


def test_fat_is_not_always_an_image(tmp_path):
    write_series(tmp_path / "src", description="t2 tse fs", **MR)
    for name in ("T2 fat sat", "T2_fat_suppressed"):
        assert [row["taken"] for row in table(tmp_path / "src", tmp_path, name)] == ["waiting"]
    (row,) = table(tmp_path / "src", tmp_path, "T2 fat")
    assert "nothing says that it is the image that the channel asks for (fat)" in row["reason"]


def stacked(count: int, first_mm: float = -300.0) -> list[tuple[float, float, float]]:
    return [(-10.0, -20.0, first_mm + 3 * k) for k in range(count)]


def test_one_frame_a_file(tmp_path):
    voxels, ids = ramp(), one_series()
    for k, position in enumerate(stacked(8)):
        write_enhanced(tmp_path / f"{(5 * k) % 8}", voxels[k : k + 1], [position], **ids)
    found = volumes_of(tmp_path)
    assert list(found) == [""] and np.array_equal(found[""], voxels)


def test_one_volume_a_file(tmp_path):
    ids = one_series()
    for number in range(3):

        def change(dataset, number=number):
            dataset.InstanceNumber = number + 1

        write_enhanced(tmp_path / "cab"[number], ramp(seed=number), stacked(8), change=change, **ids)
    found = volumes_of(tmp_path)
    assert list(found) == ["volume=1", "volume=2", "volume=3"]
    assert all(np.array_equal(voxels, ramp(seed=number)) for number, voxels in enumerate(found.values()))


def test_one_volume_in_several_files(tmp_path):
    voxels, ids = ramp((20, 16, 12)), one_series()
    for number, frames in enumerate((range(5), range(5, 12))):
        write_enhanced(tmp_path / f"{number}", voxels[list(frames)], [stacked(12)[k] for k in frames], **ids)
    found = volumes_of(tmp_path)
    assert list(found) == [""] and np.array_equal(found[""], voxels)


@pytest.mark.parametrize("gap_mm", [90.0, 3.0])
def test_stacks_side_by_side_are_volumes_and_one_stack_in_parts_is_not(tmp_path, gap_mm):
    def tags(frame):
        return {"FrameContentSequence": {"StackID": str(1 + frame // 6)}}

    places = [*stacked(6), *stacked(6, -300.0 + 5 * 3 + gap_mm)]
    write_enhanced(tmp_path / "a", ramp((20, 16, 12)), places, tags)
    found = volumes_of(tmp_path)
    assert list(found) == (["plane=axial stack=1", "plane=axial stack=2"] if gap_mm > 3 else [""])
    assert np.array_equal(np.concatenate(list(found.values())), ramp((20, 16, 12)))


def test_volumes_within_an_enhanced_file(tmp_path):
    b_values, kinds = (0.0, 800.0), ("M", "P")
    frames = list(itertools.product(range(8), range(2), range(2)))

    def tags(number):
        _, b, kind = frames[number]
        return {
            "MRDiffusionSequence": {"DiffusionBValue": b_values[b]},
            "MRImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", kinds[kind], "NONE"]},
            "PixelValueTransformationSequence": {
                "RescaleSlope": 1 + kind,
                "RescaleIntercept": -3 * kind,
                "RescaleType": "US",
            },
        }

    planes = [ramp(seed=2 * b + kind)[k] for k, b, kind in frames]
    write_enhanced(tmp_path / "a", planes, [stacked(8)[k] for k, _, _ in frames], tags)
    found = volumes_of(tmp_path)
    assert len(found) == 4
    for (b, kind), name in itertools.product(((0, 0), (0, 1), (1, 0), (1, 1)), found):
        if f"b_value={b_values[b]:g}" in name.split() and f"image_type={kinds[kind]}" in name.split():
            assert np.array_equal(found[name], (1 + kind) * ramp(seed=2 * b + kind) - 3 * kind)
            found[name] = None
    assert all(voxels is None for voxels in found.values())


@pytest.mark.parametrize("spacing_mm", [3.0, -3.0])
def test_spect_has_its_places_in_the_detector(tmp_path, spacing_mm):
    write_nuclear(tmp_path / "a", ramp(), spacing_mm=spacing_mm)
    (series,), _ = scan_tree(tmp_path.resolve())
    image = read_series(tmp_path.resolve(), series)
    assert np.array_equal(sitk.GetArrayFromImage(image), ramp() if spacing_mm > 0 else ramp()[::-1])
    first = image.TransformIndexToPhysicalPoint((0, 0, 0 if spacing_mm > 0 else 7))
    assert np.allclose(first, (-30, 20, 100)) and image.GetSpacing() == pytest.approx((0.8, 0.7, 3.0))


def places_in_the_file(dataset):
    detector = dataset.DetectorInformationSequence[0]
    dataset.ImagePositionPatient = detector.ImagePositionPatient
    dataset.ImageOrientationPatient = detector.ImageOrientationPatient
    del dataset.DetectorInformationSequence


def no_slice_vector(dataset):
    del dataset.SliceVector


def orientation_in_the_file(dataset):
    dataset.ImageOrientationPatient = dataset.DetectorInformationSequence[0].ImageOrientationPatient
    del dataset.DetectorInformationSequence[0].ImageOrientationPatient


@pytest.mark.parametrize("change", [places_in_the_file, no_slice_vector, orientation_in_the_file])
def test_other_ways_to_place_a_spect(tmp_path, change):
    dataset = dcmread(write_nuclear(tmp_path / "a", ramp()))
    change(dataset)
    dataset.save_as(tmp_path / "a")
    image = read_series(tmp_path.resolve(), only(tmp_path))
    assert np.array_equal(sitk.GetArrayFromImage(image), ramp()) and np.allclose(image.GetOrigin(), (-30, 20, 100))


def planar(dataset):
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]
    del dataset.SliceVector


def projections(dataset):
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]
    del dataset.SliceVector


def nowhere(dataset):
    del dataset.DetectorInformationSequence


@pytest.mark.parametrize("change", [planar, projections, nowhere])
def test_frames_of_nuclear_medicine_that_are_not_slices_are_refused(tmp_path, change):
    dataset = dcmread(write_nuclear(tmp_path / "a", ramp()))
    change(dataset)
    dataset.save_as(tmp_path / "a")
    assert "without frame positions" in only(tmp_path).problem


def test_gated_spect_is_split(tmp_path):
    dataset = dcmread(write_nuclear(tmp_path / "a", ramp()))
    dataset.NumberOfFrames, dataset.PixelData = 16, ramp().tobytes() + ramp(seed=1).tobytes()
    dataset.SliceVector, dataset.TimeSlotVector = [*range(1, 9)] * 2, [1] * 8 + [2] * 8
    dataset.save_as(tmp_path / "a")
    found = volumes_of(tmp_path)
    assert list(found) == ["temporal_position=1", "temporal_position=2"]
    assert np.array_equal(found["temporal_position=2"], ramp(seed=1))


def only(folder: Path) -> Series:
    (series,), _ = scan_tree(folder.resolve())
    return series


@pytest.mark.parametrize("count", [5, 9, 12])
@pytest.mark.parametrize("csa", [True, False])
def test_a_mosaic_is_its_slices(tmp_path, count, csa):
    write_mosaic(tmp_path / "a", ramp((20, 16, count)), csa=csa)
    image = read_series(tmp_path.resolve(), only(tmp_path))
    assert np.array_equal(sitk.GetArrayFromImage(image), ramp((20, 16, count)))
    assert image.GetOrigin() == pytest.approx((-20, -30, 5)) and image.GetSpacing() == pytest.approx((2, 2, 3))


def test_the_slices_of_a_mosaic_follow_its_normal(tmp_path):
    write_mosaic(tmp_path / "a", ramp(), normal=(0, 0, -1))
    image = read_series(tmp_path.resolve(), only(tmp_path))
    assert np.array_equal(sitk.GetArrayFromImage(image), ramp()[::-1])
    assert image.GetOrigin() == pytest.approx((-20, -30, 5 - 7 * 3))


def test_mosaics_over_time_are_volumes(tmp_path):
    ids = one_series()
    for number in range(3):
        write_mosaic(tmp_path / f"{number}", ramp((8, 8, 48), seed=number), acquisition=number + 1, **ids)
    found = volumes_of(tmp_path)
    assert list(found) == ["acquisition=1", "acquisition=2", "acquisition=3"]
    assert all(np.array_equal(voxels, ramp((8, 8, 48), seed=number)) for number, voxels in enumerate(found.values()))


def unknown_number(dataset):
    del dataset[0x0029, 0x1010]


def unknown_spacing(dataset):
    del dataset.SpacingBetweenSlices, dataset.SliceThickness


@pytest.mark.parametrize(
    ("change", "reason"),
    [(unknown_number, "mosaic without its number of slices"), (unknown_spacing, "mosaic without slice spacing")],
)
def test_a_mosaic_that_does_not_tell_its_slices_has_the_true_reason(tmp_path, change, reason):
    write_mosaic(tmp_path / "a", ramp(), change=change)
    assert reason in only(tmp_path).problem
