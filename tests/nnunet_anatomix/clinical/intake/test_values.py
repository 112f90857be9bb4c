"""Tests of masks, Hounsfield units and padding, and of kernels."""

from __future__ import annotations

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.clinical.intake.intake import intake
from nnunet_anatomix.clinical.intake.label_values import has_label_values
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from pretraining.common.errors import CommandFailed
from pretraining.imaging.headers import read_header
from tests.nnunet_anatomix.clinical.dicom_series import ramp, write_series
from tests.nnunet_anatomix.clinical.intake.test_choice import GRID, channels, chosen, scan
from tests.nnunet_anatomix.clinical.intake.test_intake import model_of, rows

COARSE = replace(GRID, size=(64, 64, 15), spacing_mm=(1.0, 1.0, 6.0))


def body(seed: int = 0, size: tuple[int, int, int] = (12, 40, 36)) -> np.ndarray:
    """Return a CT, (Z, Y, X) int16 HU: air around soft tissue and bone, with noise."""
    _, y, x = np.indices(size)
    inside = (y - size[1] / 2) ** 2 + (x - size[2] / 2) ** 2 < (0.4 * size[1]) ** 2
    values = np.where(inside, 40.0, -1000.0)
    values[:, size[1] // 2 : size[1] // 2 + 4, size[2] // 2 : size[2] // 2 + 4] = 800
    return (values + np.random.default_rng(seed).normal(0, 12, size)).round().clip(-1024, 3071).astype(np.int16)


def write(path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def labels(values: int, dtype=np.uint8) -> np.ndarray:
    """Return a label map of boxes, (Z, Y, X)."""
    result = np.zeros((12, 40, 36), dtype)
    for value in range(1, values + 1):
        row, column = divmod((value - 1) % 100, 10)
        result[:, 4 * row : 4 * row + 4, 3 * column : 3 * column + 3] = value
    return result


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("values", "is_label_map"),
    [
        (labels(1), True),
        (labels(1, np.float32), True),
        (labels(1, np.int16) * 255, True),
        (labels(100), True),
        (labels(100, np.float64), True),
        (body(), False),
        (body().astype(np.float32), False),
        ((body() + 1024).astype(np.uint16), False),
        ((body() * 0.6 + 100).clip(0, 255).astype(np.uint8), False),
        (np.random.default_rng(0).random((12, 40, 36)).astype(np.float32), False),
    ],
    ids=["mask", "float mask", "255", "100 labels", "float labels", "CT", "float CT", "unsigned CT", "8 bit", "0 to 1"],
)
def test_label_maps_are_told_by_their_values(tmp_path, values, is_label_map, ending):
    write(tmp_path / f"image{ending}", values)
    assert has_label_values(read_header(tmp_path / f"image{ending}")) == is_label_map


def test_masks_are_not_taken_for_scans(tmp_path):
    write(tmp_path / "src" / "s0001" / "ct.nii.gz", body())
    for organ in ("liver", "aorta"):
        write(tmp_path / "src" / "s0001" / "segmentations" / f"{organ}.nii.gz", labels(1))
    write(tmp_path / "src" / "plain" / "patient1.nii.gz", body(1))
    write(tmp_path / "src" / "plain" / "patient1_liver.nii.gz", labels(1))
    done = intake(tmp_path / "src", tmp_path / "out", model_of(tmp_path / "model", "CT"), dry_run=True)
    table = {f"{row['folder']}/{row['first_file']}": (row["taken"], row["reason"]) for row in rows(done)}
    assert {name for name, (taken, _) in table.items() if taken == "waiting"} == {
        "s0001/ct.nii.gz",
        "plain/patient1.nii.gz",
    }
    assert table["plain/patient1_liver.nii.gz"][1] == "mask or label map (values)"
    assert table["s0001/segmentations/liver.nii.gz"][1] == "mask or label map (values)"


def test_a_scan_in_a_folder_for_masks_is_a_scan(tmp_path):
    write(tmp_path / "src" / "segmentation" / "a.nii.gz", body())
    write(tmp_path / "src" / "segmentation" / "b.nii.gz", labels(1, np.int16))
    done = intake(tmp_path / "src", tmp_path / "out", model_of(tmp_path / "model", "CT"), dry_run=True)
    assert [row["taken"] for row in rows(done)] == ["waiting", "no"]


def test_a_mask_is_taken_if_its_path_is_mapped(tmp_path):
    write(tmp_path / "src" / "a.nii.gz", body())
    write(tmp_path / "src" / "a_liver.nii.gz", labels(1))
    model = model_of(tmp_path / "model", "CT")
    for pattern, taken in (("*.nii.gz", ["a.nii.gz"]), ("a*", ["a.nii.gz"]), ("a_liver.nii.gz", ["a_liver.nii.gz"])):
        done = intake(tmp_path / "src", tmp_path / "out", model, maps=(f"0=path:{pattern}",), dry_run=True)
        assert [row["first_file"] for row in rows(done) if row["taken"] == "waiting"] == taken


def test_a_mask_in_dicom_is_refused(tmp_path):
    write_series(tmp_path / "src", labels(1, np.int16), intercept=0.0)
    with pytest.raises(CommandFailed):
        intake(tmp_path / "src", tmp_path / "out", model_of(tmp_path / "model", "CT"))
    assert "all voxels are 0 or 1: a mask, not a scan" in rows(tmp_path / "out")[0]["reason"]


def convert(folder, name: str = "CT") -> tuple[np.ndarray, str]:
    """Return the values of the only case of an intake, and the remark on it."""
    intake(folder / "src", folder / "out", model_of(folder / "model", name))
    (row,) = rows(folder / "out")
    assert row["taken"] == "yes"
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "out" / "images" / "case_001_0000.nii.gz"))), row[
        "reason"
    ]


def padded(stored: int, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    """Return stored values with padded corners, (Z, Y, X) uint16, and where the padding is."""
    where = np.zeros((12, 40, 36), bool)
    where[:, :3, :3] = True
    return np.where(where, stored, body() - intercept).astype(np.uint16), where


@pytest.mark.parametrize("tag", [63536, None])
def test_padding_that_lost_its_sign_becomes_air(tmp_path, tag):
    voxels, where = padded(63536, -1024)

    def with_padding(dataset, k):
        if tag is not None:
            dataset.add_new("PixelPaddingValue", "US", tag)

    write_series(tmp_path / "src", voxels, change=with_padding)
    values, remark = convert(tmp_path)
    assert values.dtype == np.int16 and (values[where] == -1024).all()
    assert np.array_equal(values[~where], body()[~where])
    assert "padding of 62512 HU replaced by -1024" in remark


@pytest.mark.parametrize(("vr", "tag"), [("SS", -2000), ("US", 63536)])
def test_padding_below_air_stays(tmp_path, vr, tag):
    def with_padding(dataset, k):
        dataset.add_new("PixelPaddingValue", vr, tag)

    voxels, where = padded(63536, -1024)
    write_series(tmp_path / "src", voxels.view(np.int16), change=with_padding)
    values, remark = convert(tmp_path)
    assert (values[where] == -3024).all() and "padding" not in remark and "air" not in remark


def test_impossible_hounsfield_units_are_refused(tmp_path):
    wrapped = body().astype(np.uint16)  # negative values become large
    write_series(tmp_path / "src", wrapped, intercept=0.0)
    with pytest.raises(CommandFailed):
        intake(tmp_path / "src", tmp_path / "out", model_of(tmp_path / "model", "CT"))
    assert "are not Hounsfield units" in rows(tmp_path / "out")[0]["reason"]


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
@pytest.mark.parametrize(("shift", "named"), [(0, False), (1024, True), (-300, True)])
def test_a_ct_whose_air_is_elsewhere_is_named(tmp_path, kind, shift, named):
    values = (body() + shift).astype(np.int16)
    if kind == "dicom":
        write_series(tmp_path / "src", values, intercept=0.0)
    else:
        write(tmp_path / "src" / "ct.nii.gz", values)
    found, remark = convert(tmp_path)
    assert np.array_equal(found, values) and ("air is expected near -1000" in remark) == named


def test_values_of_mr_are_not_hounsfield_units(tmp_path):
    write(tmp_path / "src" / "mr.nii.gz", (body() + 1024).astype(np.int16))
    assert "air" not in convert(tmp_path, "MRI")[1]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_slices_that_differ_in_sign_or_bits_are_decoded_each_by_its_own_header(tmp_path, bits):
    voxels = ramp()
    voxels[:4] -= 500
    voxels[4:] %= min(1 << bits, 4096)

    def narrow(dataset, k):
        if k >= 4:
            dataset.PixelRepresentation = 0
            dataset.BitsStored, dataset.HighBit = bits, bits - 1
            if bits == 8:
                dataset.BitsAllocated, dataset.PixelData = 8, voxels[k].astype(np.uint8).tobytes()
                dataset["PixelData"].VR = "OB"

    write_series(tmp_path, voxels, modality="MR", slope=None, intercept=None, change=narrow)
    (series,), _ = scan_tree(tmp_path.resolve())
    image = read_series(tmp_path, series)
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels) and image.GetPixelID() == sitk.sitkInt16


@pytest.mark.parametrize("kernel", ["Bl57", "B50f", "I50f\\2", "Br59", "B70f", "Hr64d\\3", "BONE", "LUNG", "FC51"])
def test_sharp_kernels_go_behind_soft_ones(kernel):
    thin = scan("a", grid=GRID, kernel=kernel)
    for soft in ("Br40d\\3", "B30f", "I31f", "STANDARD", "FC08", "Hr38", ""):
        (case,) = chosen([thin, scan("b", grid=COARSE, kernel=soft)], channels("CT"))
        assert case.chosen == (2,) and case.reasons[1] == "series 2 fits better: softer kernel"


def test_a_short_soft_series_does_not_replace_a_long_sharp_one():
    short = scan("b", grid=replace(GRID, size=(64, 64, 8)), kernel="Br40")
    (case,) = chosen([short, scan("a", kernel="Bl57")], channels("CT"))
    assert case.chosen == (2,) and case.reasons[1] == "series 2 fits better: longer scan"


def test_a_kernel_in_the_description_counts_if_its_tag_is_missing():
    (case,) = chosen([scan("Thorax 1.0 Bl57"), scan("Thorax 1.0 Br40")], channels("CT"))
    assert case.chosen == (2,)


def test_placements_that_disagree_are_named(tmp_path):
    placed = nibabel.Nifti1Image(body().T, np.eye(4))
    placed.set_qform(np.diag([1.0, 1.0, 2.0, 1.0]), 1)
    placed.set_sform(np.eye(4), 1)
    (tmp_path / "src").mkdir()
    nibabel.save(placed, tmp_path / "src" / "ct.nii.gz")
    assert "sform and qform disagree" in convert(tmp_path)[1]
