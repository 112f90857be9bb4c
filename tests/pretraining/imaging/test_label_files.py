"""Label files are read unchanged; damaged files and scans are refused with the reason."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK

from pretraining.imaging import label_files
from pretraining.imaging.integrity import check_file
from pretraining.imaging.label_files import FEW_VALUES, agreement, read_labels, read_size, resample_nearest
from pretraining.templates.report import Rejected
from tests.pretraining.templates.label_maps import box, save

FORMATS = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"]


def noisy(dtype: type = np.uint8) -> np.ndarray:
    """Draw labels that compress poorly."""
    return np.random.default_rng(0).integers(0, 5, (20, 17, 13)).astype(dtype)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_reads_back(tmp_path, suffix, compressed):
    path = save(tmp_path / f"a{suffix}", noisy(), 2.0, compressed=compressed)
    labels, spacing_mm, values = read_labels(path)
    assert np.array_equal(labels, noisy()) and values == (1, 2, 3, 4) and spacing_mm == (2.0, 2.0, 2.0)
    assert read_size(path) == (20, 17, 13)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_type_gives_the_smallest_unsigned_one(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(label_files, "CHUNK", 300)  # several slabs
    labels = noisy(dtype)
    labels[3, 4, 5] = 100
    found = read_labels(save(tmp_path / "a.nii.gz", labels))
    assert found.labels.dtype == np.uint8 and np.array_equal(found.labels, labels) and found.values == (1, 2, 3, 4, 100)


def test_large_numbers_are_labels_too(tmp_path):
    labels = noisy(np.uint32)
    labels[3, 4, 5] = 614_454_277  # as in some atlases
    assert read_labels(save(tmp_path / "a.nrrd", labels)).values == (1, 2, 3, 4, 614_454_277)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("keep", [0, 60, 0.5, -3])
def test_a_file_cut_short_is_refused(tmp_path, suffix, compressed, keep):
    path = save(tmp_path / f"a{suffix}", noisy(), compressed=compressed)
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * keep) if 0 < keep < 1 else keep])
    with pytest.raises(Rejected, match=r"truncated|damaged|empty file") as error:
        read_labels(path)
    assert error.value.kind == "unusable" and "\n" not in str(error.value) and "0x" not in str(error.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_damaged_compressed_voxels_are_refused(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", noisy())
    content = bytearray(path.read_bytes())
    for where in range(len(content) * 2 // 3, len(content) * 2 // 3 + 20):
        damaged = content.copy()
        damaged[where] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(Rejected, match="damaged"):
            read_labels(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_hidden_nan_is_found_in_either_byte_order(tmp_path, order, bad):
    voxels = np.ones((5, 4, 3), dtype=f"{order}f4")
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, 3, 5, 4, 3, 1, 1, 1, 1)
    struct.pack_into(order + "hh", header, 70, 16, 32)
    struct.pack_into(order + "8f", header, 76, *[1.0] * 8)
    struct.pack_into(order + "f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(header) + voxels.tobytes(order="F")))
    assert read_labels(path).values == (1,)
    voxels[4, 3, 2] = bad
    path.write_bytes(gzip.compress(bytes(header) + voxels.tobytes(order="F")))
    with pytest.raises(Rejected, match=f"1 voxel is {'NaN' if np.isnan(bad) else 'infinite'} on disk"):
        check_file(path)


NOT_FINITE = np.ones((6, 6, 6), dtype=np.float32)
NOT_FINITE[2, 3, 4] = np.nan


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (NOT_FINITE, "NaN"),
        (np.linspace(0, 1, 216, dtype=np.float32).reshape(6, 6, 6), "not whole"),
        (np.full((6, 6, 6), -1000, dtype=np.int16), "negative number -1000"),
        (np.full((6, 6, 6), 1e30, dtype=np.float32), "below 2"),
        (np.arange(15**3, dtype=np.uint16).reshape(15, 15, 15), "distinct values"),
        (np.ones((3, 6, 6, 6), dtype=np.uint8), "three dimensions"),
        (np.ones((6, 6), dtype=np.uint8), "three dimensions"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_what_is_no_label_map_is_refused(tmp_path, array, reason, suffix):
    with pytest.raises(Rejected, match=reason):
        read_labels(save(tmp_path / f"a{suffix}", array))


def parcels(shape: tuple[int, int, int], size: int) -> np.ndarray:
    """Create cubes of ``size`` voxels, each with its own label."""
    counts = [-(-n // size) for n in shape]
    labels = np.arange(1, np.prod(counts) + 1, dtype=np.uint16).reshape(counts)
    for axis in range(3):
        labels = labels.repeat(size, axis)
    return labels[tuple(map(slice, shape))]


def scan(shape: tuple[int, int, int]) -> np.ndarray:
    """Create smooth tissue with noise in 8 bits."""
    tissue = np.sin(np.arange(shape[0]) / 7)[:, None, None] + np.cos(np.arange(shape[2]) / 5) + np.zeros(shape)
    noise = np.random.default_rng(0).normal(scale=0.05, size=shape)
    return np.clip(120 + 50 * (tissue + noise), 0, 255).astype(np.uint8)


def test_a_scan_in_whole_numbers_is_no_label_map(tmp_path):
    with pytest.raises(Rejected, match=r"found \d+ values, and only \d+% of neighbouring voxels are equal .*: a scan"):
        read_labels(save(tmp_path / "a.nii.gz", scan((24, 20, 22))))


def test_small_and_thin_label_maps_are_none_the_less(tmp_path):
    rng = np.random.default_rng(0)
    thin = np.zeros((40, 12, 10), dtype=np.uint8)
    thin[:, 3, 4] = np.arange(1, 41)  # single voxels of different labels in a line
    thin[::2] = 0
    sheet = np.zeros((30, 30, 5), dtype=np.uint16)
    sheet[:, :, 2] = parcels((30, 30, 1), 5)[:, :, 0]
    few = rng.integers(0, FEW_VALUES + 1, (9, 8, 7)).astype(np.uint8)
    for labels in (box(2, 3), thin, sheet, few, parcels((24, 20, 22), 4)):
        assert np.array_equal(read_labels(save(tmp_path / "a.nii.gz", labels)).labels, labels)


@pytest.mark.parametrize("chunk", [1, 300, 2**22])
def test_agreement_counts_pairs_that_are_not_background(monkeypatch, chunk):
    monkeypatch.setattr(label_files, "CHUNK", chunk)
    labels = np.random.default_rng(1).integers(0, 3, (7, 6, 5))
    pairs = [
        (labels[place], labels[tuple(np.add(place, step))])
        for place in np.ndindex(*labels.shape)
        for step in np.eye(3, dtype=int)
        if all(np.add(place, step) < labels.shape)
    ]
    pairs = [(one, other) for one, other in pairs if one and other]
    assert np.isclose(agreement(labels), np.mean([one == other for one, other in pairs]))
    assert agreement(np.zeros((3, 4, 5), dtype=np.uint8)) == 1.0


def test_real_scans_and_label_maps_are_told_apart(data_root):
    maps = [
        *(data_root / "templates" / "head_atlases").iterdir(),
        *(data_root / "templates" / "brain_cortex").iterdir(),
    ]
    folder = data_root / "registration"
    maps += [*folder.glob("*/labels*.nii.gz"), *folder.glob("*/*seg.nii.gz"), *folder.glob("*/*levels.nii.gz")]
    assert len(maps) > 15 and all(read_labels(path).values for path in maps)
    scans = [
        folder / "mni_multimodal" / f"{name}.nii.gz"
        for name in ("t1", "t2", "pd", "epi", "ct", "pet", "spect", "colin_t1")
    ]
    scans += [folder / "spinal_cord" / f"{name}.nii.gz" for name in ("t1", "t2", "t2s", "mt0")]
    scans += [*(data_root / "nnUNet_raw").glob("*/imagesTr/*.nii.gz")]
    for path in scans:
        with pytest.raises(Rejected, match=r"a scan|an intensity image"):
            read_labels(path)


def test_an_8_bit_scan_that_was_taken_for_labels(data_root):
    path = data_root.parent / "cases" / "files" / "8bit_image_taken_for_labels.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    with pytest.raises(Rejected, match="found 106 values, and only 7% of neighbouring voxels are equal"):
        read_labels(path)


def test_vectors_are_refused(tmp_path):
    image = SimpleITK.GetImageFromArray(np.ones((6, 5, 4, 3), dtype=np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(Rejected, match="3 values per voxel"):
        read_labels(tmp_path / "a.mha")


def test_impossible_sizes_are_refused_before_memory_is_asked_for(tmp_path):
    path = save(tmp_path / "a.nii", box(2, 9))
    header = bytearray(path.read_bytes())
    struct.pack_into("<3h", header, 42, 30000, 30000, 30000)
    path.write_bytes(header)
    with pytest.raises(Rejected, match="30000 x 30000 x 30000"):
        read_labels(path)
    with pytest.raises(Rejected, match=r"at 0\.001 mm"):
        resample_nearest(box(2, 9), (1.0, 1.0, 1.0), 0.001)


def test_unreadable_files_are_named_with_the_systems_reason(tmp_path, monkeypatch):
    (tmp_path / "dangling.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (tmp_path / "circle.nii.gz").symlink_to(tmp_path / "circle.nii.gz")
    for name, reason in (("dangling", "No such file"), ("circle", "symbolic links")):
        with pytest.raises(Rejected, match=reason):
            read_labels(tmp_path / f"{name}.nii.gz")
    path = save(tmp_path / "a.nii.gz", box(2, 9))

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "open", refuse)  # the tests may run as root, who may read everything
    with pytest.raises(Rejected, match=r"unreadable \(Permission denied\)"):
        read_labels(path)


def test_itk_keeps_its_warnings_to_itself(tmp_path):
    path = save(tmp_path / "a.nii", box(2, 9))
    header = bytearray(path.read_bytes())
    struct.pack_into("<4f", header, 280, 5.0, 0.0, 0.0, 0.0)  # an sform that disagrees with the voxel size
    path.write_bytes(header)
    code = f"from pathlib import Path; from pretraining.imaging.label_files import *; read_labels(Path({str(path)!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stderr == b""


def test_resampling_keeps_the_box_and_its_labels():
    labels = np.random.default_rng(0).integers(0, 5, (10, 7, 4))
    assert resample_nearest(labels, (1.0, 1.0, 1.0), 1.0) is labels
    doubled = resample_nearest(labels, (2.0, 2.0, 2.0), 1.0)
    assert np.array_equal(doubled, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert np.array_equal(resample_nearest(doubled, (1.0, 1.0, 1.0), 2.0), labels)
    assert resample_nearest(labels, (0.1, 1.0, 1.0), 5.0).shape == (1, 1, 1)
