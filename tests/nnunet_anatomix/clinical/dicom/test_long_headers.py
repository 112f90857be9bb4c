"""Tests of headers longer than the first bytes read, deflated files, objects without pixels."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    TwelveLeadECGWaveformStorage,
    generate_uid,
)

from nnunet_anatomix.clinical.dicom.parsing import HEAD_BYTES
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from tests.nnunet_anatomix.clinical.dicom_series import ramp, write_series


def long_sequence() -> Sequence:
    """Return a sequence of undefined length that the end of the head cuts inside of an item."""
    items = []
    for number in range(40):
        item = Dataset()
        item.ReferencedSOPInstanceUID = generate_uid()
        item.add_new((0x0009, 0x0010), "LO", "SYNTHETIC PRIVATE")
        item.add_new((0x0009, 0x1001), "OB", bytes([number]) * (HEAD_BYTES // 30))
        item.is_undefined_length_sequence_item = True
        items.append(item)
    return Sequence(items)


def with_long_sequence(dataset: Dataset, k: int) -> None:
    dataset.SourceImageSequence = long_sequence()
    dataset["SourceImageSequence"].is_undefined_length = True


def write_object(path: Path, sop_class: str, modality: str) -> None:
    """Write an object without pixels whose header is longer than what is read first."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, generate_uid(), modality
    dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "4711", generate_uid(), generate_uid()
    dataset.ContentSequence = long_sequence()
    dataset["ContentSequence"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("coding", ["explicit", "implicit", "deflated", "rle", "jpeg2000"])
def test_a_sequence_of_undefined_length_may_cross_the_end_of_the_head(tmp_path, coding):
    write_series(tmp_path, coding=coding, change=with_long_sequence)
    (series,), strays = scan_tree(tmp_path.resolve())
    assert not series.problem and not strays
    assert np.array_equal(sitk.GetArrayFromImage(read_series(tmp_path, series)), ramp() - 1024)


def test_deflated_slices_longer_than_the_head_are_read(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 4000, (6, 200, 220)).astype(np.int16)
    paths = write_series(tmp_path, voxels, coding="deflated")
    assert min(path.stat().st_size for path in paths) > HEAD_BYTES
    (series,), _ = scan_tree(tmp_path.resolve())
    assert np.array_equal(sitk.GetArrayFromImage(read_series(tmp_path, series)), voxels - 1024)


def deflate_again(path: Path, change) -> None:
    """Change the inflated data set of a deflated file, given as a stream of pieces."""
    data = path.read_bytes()
    at = 132 + 12 + int.from_bytes(data[140:144], "little")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = change(zlib.decompress(data[at:], -zlib.MAX_WBITS))
    path.write_bytes(data[:at] + b"".join(deflater.compress(piece) for piece in pieces) + deflater.flush())


def inflating_to(size_bytes: int):
    def change(inflated: bytes):
        yield inflated
        for _ in range(size_bytes >> 20):
            yield bytes(1 << 20)

    return change


def claiming(rows_and_columns: int):
    """Return a change to a header that claims as many pixels as follow."""

    def change(inflated: bytes):
        for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
            at = inflated.index(tag) + len(tag)
            inflated = inflated[:at] + rows_and_columns.to_bytes(2, "little") + inflated[at + 2 :]
        yield from inflating_to(2 * rows_and_columns**2)(inflated)

    return change


def long_value(inflated: bytes):
    """Put a private value of 100 MB, before the pixels."""
    at = inflated.index(b"\x28\x00\x02\x00US")
    yield (
        inflated[:at] + b"\x27\x00\x10\x00LO\x02\x00A " + b"\x27\x00\x01\x10OB\0\0" + (100 << 20).to_bytes(4, "little")
    )
    yield from inflating_to(100 << 20)(b"")
    yield inflated[at:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (inflating_to(600 << 20), "inflates to more than its header says"),
        (claiming(20000), "inflates to more than 100 times its size"),
        (long_value, "damaged header"),
        (lambda inflated: [inflated[:-100]], "file is truncated"),
    ],
    ids=["more than said", "as much as said", "long header", "truncated"],
)
def test_a_deflated_bomb_is_not_inflated(tmp_path, change, reason):
    paths = write_series(tmp_path, coding="deflated")
    deflate_again(paths[3], change)
    tracemalloc.start()
    try:
        series, strays = scan_tree(tmp_path.resolve())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert any(reason in each for each in [*(each.problem for each in series), *(each.reason for each in strays)])
    assert all(each.problem for each in series)
    assert peak < 150 << 20


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [(ComprehensiveSRStorage, "SR"), (RTStructureSetStorage, "RTSTRUCT"), (TwelveLeadECGWaveformStorage, "ECG")],
)
@pytest.mark.parametrize("kept", [1.0, 0.5, 0.01], ids=["sound", "cut in two", "cut in the header"])
def test_an_object_without_pixels_does_not_void_the_scan_beside_it(tmp_path, sop_class, modality, kept):
    write_series(tmp_path)
    path = tmp_path / "IM99999"
    write_object(path, sop_class, modality)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    series, _ = scan_tree(tmp_path.resolve())
    assert [each.modality for each in series if not each.problem] == ["CT"]


def test_a_cut_slice_with_a_long_header_still_voids_its_series(tmp_path):
    path = write_series(tmp_path, change=with_long_sequence)[2]
    assert dcmread(path).Modality == "CT"
    path.write_bytes(path.read_bytes()[: HEAD_BYTES + 100])
    series, _ = scan_tree(tmp_path.resolve())
    assert series and all(each.problem for each in series)
