"""Invalid scans give one line with the scan, the defect and what to do."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.grids import same_grid
from pretraining.imaging.scans import read_image, validate_labels, validate_scan

SHAPE = (9, 7, 5)


def volume(shape: tuple[int, ...] = SHAPE[::-1]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def image(array: np.ndarray | None = None, **options) -> sitk.Image:
    made = sitk.GetImageFromArray(volume() if array is None else array, **options)
    made.SetSpacing([1.0, 1.5, 2.0, 1.0][: made.GetDimension()])
    return made


def with_voxel(value: float) -> sitk.Image:
    array = volume()
    array[1, 2, 3] = value
    return image(array)


def said(call, *arguments) -> str:
    """Return the one-line message of the error."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("scan", "found", "remedy"),
    [
        (lambda: image(volume((7, 9))), "(9, 7)", "one 3D volume"),
        (lambda: image(volume((2, 5, 7, 9)), isVector=False), "(9, 7, 5, 2)", "one 3D volume"),
        (lambda: image(volume((1, 7, 9))), "(9, 7, 1)", "one 3D volume"),
        (lambda: image(volume((5, 7, 9, 3)), isVector=True), "vector of 32-bit float", "extract one channel"),
        (lambda: image(volume().astype(np.complex64)), "complex", "extract one channel"),
        (lambda: with_voxel(np.nan), "1 of 315 voxels", "replace them"),
        (lambda: with_voxel(-np.inf), "1 of 315 voxels", "replace them"),
        (lambda: image(np.full(SHAPE, 7.5)), "every voxel is 7.5", "constant"),
    ],
    ids=["2D", "4D", "one slice", "vector", "complex", "NaN", "infinite", "constant"],
)
def test_what_is_no_scan_is_refused(scan, found, remedy):
    message = said(validate_scan, scan(), "moving")
    assert message.startswith("moving: ") and found in message and remedy in message


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float64])
def test_any_kind_of_number_becomes_a_scan(kind):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE[::-1]).astype(kind)
    scan = validate_scan(image(array), "fixed")
    assert scan.GetPixelID() == sitk.sitkFloat32 and np.array_equal(
        sitk.GetArrayFromImage(scan), array.astype(np.float32)
    )


def written_by_hand(path: Path, directions: np.ndarray) -> Path:
    """Write an .mha or .nrrd with any directions, even invalid ones; rows are axes."""
    numbers = [" ".join(f"{x:g}" for x in row) for row in directions]
    if path.suffix == ".mha":
        header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        header += f"TransformMatrix = {' '.join(numbers)}\n"
        header += f"Offset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = {' '.join(map(str, SHAPE))}\n"
        header += "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    else:
        axes = " ".join(f"({row.replace(' ', ',')})" for row in numbers)
        header = (
            f"NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: {' '.join(map(str, SHAPE))}\n"
        )
        header += f"space directions: {axes}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        header += "space origin: (0,0,0)\n\n"
    path.write_bytes(header.encode() + volume().tobytes())
    return path


SHEARED = np.array([[1, 0, 0], [0.5, 1, 0], [0, 0, 1]])
SINGULAR = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def checked_file(path: Path) -> sitk.Image:
    return validate_scan(read_image(path, "fixed"), "fixed")


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_headers_written_by_hand_are_read(tmp_path, ending):
    assert checked_file(written_by_hand(tmp_path / f"scan.{ending}", np.eye(3))).GetSize() == SHAPE


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
@pytest.mark.parametrize("directions", [SHEARED, SINGULAR], ids=["sheared", "singular"])
def test_directions_that_are_not_at_right_angles_are_refused(tmp_path, ending, directions):
    message = said(checked_file, written_by_hand(tmp_path / f"scan.{ending}", directions))
    assert message.startswith("fixed: ") and ("direction" in message or "unreadable" in message)


def test_a_sheared_scan_is_to_be_resampled(tmp_path):
    message = said(checked_file, written_by_hand(tmp_path / "scan.mha", SHEARED))
    assert "sheared" in message and "0.5" in message and "resample it" in message


def test_a_sheared_nifti_is_refused_for_its_shear(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.5
    nifti = nibabel.Nifti1Image(volume(SHAPE), affine)
    nifti.set_sform(affine, code=1)
    nifti.header["qform_code"] = 0
    nibabel.save(nifti, tmp_path / "scan.nii.gz")
    message = said(checked_file, tmp_path / "scan.nii.gz")
    assert message.startswith("fixed: ") and "scan.nii.gz" in message and "not at right angles (sheared)" in message


def test_a_missing_file_is_named(tmp_path):
    assert (
        said(read_image, tmp_path / "no.nii.gz", "moving mask") == f"moving mask: no such file {tmp_path / 'no.nii.gz'}"
    )


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.mha", "scan.nrrd"])
def test_a_truncated_file_is_named(tmp_path, name):
    path = tmp_path / name
    sitk.WriteImage(image(volume((20, 20, 20))), str(path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    message = said(checked_file, path)
    assert message.startswith("fixed: ") and str(path) in message
    assert "truncated" in message


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float64])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_nifti_that_lacks_its_last_bytes_is_cut_off(tmp_path, ending, kind):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    sitk.WriteImage(image((100 * volume()).astype(kind)), str(whole))
    assert read_image(whole, "fixed").GetSize() == SHAPE
    cut.write_bytes(whole.read_bytes()[:-1])
    assert "truncated" in said(read_image, cut, "fixed")


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image(volume((20, 20, 20))), str(path))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert said(read_image, path, "moving").startswith("moving: ")


@pytest.mark.parametrize("name", ["notes.txt", "scan.nii.gz", "scan.mha", "scan"])
def test_a_file_that_is_no_image_is_named(tmp_path, name):
    (tmp_path / name).write_text("Dear diary,\n")
    message = said(read_image, tmp_path / name, "moving")
    assert message.startswith(f"moving: {tmp_path / name}: ") and (
        "unreadable" in message or "truncated" in message or "damaged" in message
    )


def test_a_folder_is_no_image(tmp_path):
    message = said(read_image, tmp_path, "moving")
    assert message.startswith("moving: ") and str(tmp_path) in message


def boxes(shape: tuple[int, ...] = SHAPE[::-1]) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[:2, 1:4], labels[3:, 2:] = 1, 200
    return labels


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_labels_on_the_grid_of_their_scan_stay_as_they_are(kind, caplog):
    with caplog.at_level(logging.INFO):
        labels = validate_labels(image(boxes().astype(kind)), image(), "fixed labels")
    assert labels.GetPixelID() == sitk.sitkInt32 and np.array_equal(sitk.GetArrayFromImage(labels), boxes())
    assert not caplog.records


@pytest.mark.parametrize(
    "change",
    [lambda labels: sitk.Flip(labels, (True, False, True)), lambda labels: sitk.PermuteAxes(labels, (2, 0, 1))],
)
def test_labels_on_another_grid_are_brought_to_their_scans_and_it_is_said(change, caplog):
    elsewhere = change(image(boxes()))
    with caplog.at_level(logging.INFO):
        labels = validate_labels(elsewhere, image(), "moving labels")
    assert np.array_equal(sitk.GetArrayFromImage(labels), boxes()) and same_grid(labels, image())
    assert len(caplog.records) == 1 and caplog.text.count("moving labels: resampled to the grid") == 1


def test_an_empty_mask_is_refused():
    message = said(validate_labels, image(boxes() * 0), image(), "moving mask")
    assert message.startswith("moving mask: empty") and "omit it" in message


def test_a_mask_that_lies_elsewhere_is_refused():
    mask = image(boxes())
    mask.SetOrigin((500.0, 0.0, 0.0))
    assert "check that it belongs to that scan" in said(validate_labels, mask, image(), "fixed mask")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_fractions_are_no_labels(value):
    labels = boxes().astype(np.float32)
    labels[2, 3, 4] = value
    message = said(validate_labels, image(labels), image(), "fixed labels")
    assert message.startswith("fixed labels: expected whole numbers")


def test_labels_have_one_number_in_a_voxel():
    colours = image(np.stack([boxes()] * 3, -1), isVector=True)
    assert "extract one channel" in said(validate_labels, colours, image(), "fixed labels")


@pytest.mark.parametrize(("dtype", "value"), [(np.uint32, 4_000_000_001), (np.uint8, 255), (np.float64, 2.0**33)])
def test_large_labels_keep_their_values(dtype, value):
    values = np.zeros((4, 5, 6), dtype)
    values[1:3, 2:4] = value
    labels = sitk.GetImageFromArray(values)
    validated = sitk.GetArrayFromImage(validate_labels(labels, labels, "labels"))
    assert np.array_equal(validated, values) and validated.dtype == (np.int32 if value < 2**31 else np.int64)
