"""Tests of other files in a tree: image formats, archives, links, pipes, unreadable files."""

from __future__ import annotations

import os
import re
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import classify_file, scan_tree
from nnunet_anatomix.clinical.walk import Stray, walk
from pretraining.imaging.rejection import Unusable
from tests.nnunet_anatomix.clinical.dicom_series import write_series

links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def volume(shape: tuple[int, ...] = (9, 8, 7), dtype=np.int16) -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(np.prod(shape)).reshape(shape).astype(dtype), isVector=False)
    image.SetSpacing((0.5, 0.75, 2.0, 1.0)[: len(shape)])
    image.SetOrigin((-10.0, 20.0, 30.0, 0.0)[: len(shape)])
    return image


def written(path: Path, image: sitk.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def only_problem(folder: Path) -> str:
    (series,), _ = scan_tree(folder.resolve())
    return series.problem


def strays_of(folder: Path) -> dict[str, str]:
    return {stray.file: stray.reason for stray in scan_tree(folder.resolve())[1]}


@pytest.mark.parametrize(
    "name", ["a.nii.gz", "a.nii", "a.NII.GZ", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a b Müller.nrrd"]
)
def test_formats_are_read_as_itk_reads_them(tmp_path, name):
    lower = tmp_path / name.lower()
    written(lower, volume())
    lower.rename(tmp_path / name)
    (series,), strays = scan_tree(tmp_path.resolve())
    assert not series.problem and not strays  # the detached data belongs to its header
    image = read_series(tmp_path, series)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(volume()))
    assert image.GetSpacing() == pytest.approx(volume().GetSpacing()) and image.GetOrigin() == pytest.approx(
        volume().GetOrigin()
    )


def test_a_nifti_pair_is_one_scan(tmp_path):
    written(tmp_path / "pair.hdr", volume())
    (series,), strays = scan_tree(tmp_path.resolve())
    assert series.files == ("pair.hdr", "pair.img") and not series.problem and not strays


def test_a_header_keeps_nothing_for_itself(tmp_path):
    image = volume()
    image.SetMetaData("PatientName", "Müller")
    written(tmp_path / "a.nrrd", image)
    (series,), _ = scan_tree(tmp_path.resolve())
    assert b"PatientName" in (tmp_path / "a.nrrd").read_bytes()
    assert not read_series(tmp_path, series).GetMetaDataKeys()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (sitk.Image([6, 7, 8, 3], sitk.sitkInt16), "4D: 3 volumes in one file"),
        (sitk.Image([6, 7], sitk.sitkInt16), "2D image"),
        (sitk.Image([6, 7, 1], sitk.sitkInt16), "2D image"),
        (sitk.Image([6, 7, 8], sitk.sitkVectorFloat32, 3), "3 values per voxel"),
    ],
    ids=["4D", "2D", "one slice", "vectors"],
)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_what_is_no_volume_has_its_reason(tmp_path, image, reason, ending):
    written(tmp_path / f"a{ending}", image)
    assert reason in only_problem(tmp_path)


def test_a_fourth_axis_of_one_is_none(tmp_path):
    four = sitk.JoinSeries([volume()])
    written(tmp_path / "a.nii.gz", four)
    (series,), _ = scan_tree(tmp_path.resolve())
    assert np.array_equal(sitk.GetArrayFromImage(read_series(tmp_path, series)), sitk.GetArrayFromImage(volume()))


def patched(path: Path, at: int, data: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("at", "data", "reason"),
    [
        (280, struct.pack("<f", float("nan")), "NaN or infinity"),
        (80, struct.pack("<f", float("inf")), "spacing of inf×"),
        (84, struct.pack("<f", 0.0), "spacing of 0.5×0×2 mm"),
        (252, struct.pack("<hh", 0, 0), "orientation unknown"),
        (344, b"\0\0\0\0", "Analyze"),
        (42, struct.pack("<3h", 32000, 32000, 32000), "claims 32000 x 32000 x 32000 voxels"),
    ],
    ids=["NaN", "infinity", "zero", "no orientation", "Analyze", "bomb"],
)
def test_a_strange_nifti_header_has_its_reason(tmp_path, at, data, reason):
    patched(written(tmp_path / "a.nii", volume()), at, data)
    assert reason in only_problem(tmp_path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [20, 400, 0.7])
def test_a_truncated_file_has_a_reason(tmp_path, ending, kept, capfd):
    path = written(tmp_path / f"Müller{ending}", sitk.Cast(volume((20, 30, 40)) * 7919, sitk.sitkInt16))
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept > 1 else int(kept * len(data))])
    (series,), _ = scan_tree(tmp_path.resolve())
    if series.problem:
        assert any(words in series.problem for words in ("truncated", "damaged", "does not name its data file"))
    else:
        with quiet_readers(), pytest.raises(Unusable, match=r"truncated|damaged"):
            read_series(tmp_path, series)
    assert "ller" not in "".join(capfd.readouterr())


def test_nan_voxels_and_constant_volumes_are_refused(tmp_path):
    image = volume(dtype=np.float32)
    image[3, 3, 3] = float("nan")
    for name, bad, reason in (("a", image, "NaN"), ("b", sitk.Image([6, 7, 8], sitk.sitkInt16), "all voxels are 0")):
        written(tmp_path / name / "a.nii.gz", bad)
        (series,), _ = scan_tree((tmp_path / name).resolve())
        with pytest.raises(Unusable, match=reason):
            read_series(tmp_path / name, series)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", "ObjectType = Image\nNDims = 3\nDimSize = 6 7 8\nElementType = MET_UCHAR\nElementDataFile = {}\n"),
        ("a.nhdr", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 6 7 8\nencoding: raw\ndata file: {}\n"),
        ("a.nrrd", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 6 7 8\nencoding: raw\ndata file: {}\n"),
    ],
)
def test_detached_data_never_climbs_out(tmp_path, name, header):
    (tmp_path / "secret.raw").write_bytes(bytes(range(256)) * 2)
    inside = tmp_path / "src"
    inside.mkdir()
    for target, reason in (
        ("../secret.raw", "outside of SRC"),
        (str(tmp_path / "secret.raw"), "outside of SRC"),
        ("gone.raw", "missing"),
        ("a%03d.raw 1 8 1", "several files"),
        ("LIST", "several files"),
    ):
        (inside / name).write_text(header.format(target))
        assert reason in only_problem(inside)
    if sys.platform != "win32":
        (inside / "linked.raw").symlink_to(tmp_path / "secret.raw")
        (inside / name).write_text(header.format("linked.raw"))
        assert "outside of SRC" in only_problem(inside)


_META = "ObjectType = Image\nNDims = 3\nDimSize = 6 7 12\nElementType = MET_UCHAR\n"
_NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 6 7 12\nencoding: raw\n"
HIDDEN_NAMES = {
    "other case first": "elementdatafile = ok.raw\nElementDataFile = {}\n",
    "other case, local": "ELEMENTDATAFILE = LOCAL\nElementDataFile = {}\n",
    "twice": "ElementDataFile = ok.raw\nElementDataFile = {}\n",
    "colon": "ElementDataFile : {}\n",
    "indented": "  ElementDataFile = {}\nElementDataFile = ok.raw\n",
    "in a comment": "Comment = x ElementDataFile = ok.raw\nElementDataFile = {}\n",
    "long": "Comment = " + "x" * 70_000 + "\nelementdatafile = ok.raw\nElementDataFile = {}\n",
    "very long": "ObjectSubType = x\n" * 70_000 + "ElementDataFile = {}\n",
    "nrrd, case": "Data File: {}\n",
    "nrrd, one word": "DATAFILE: {}\n",
    "nrrd, long": "# " + "x" * 70_000 + "\ndata file: {}\n",
    "nrrd, carriage return": "# x\rdata file: {}\n",
    "nrrd, very long": "# x\n" * 400_000 + "data file: {}\n\n",
    "nrrd, key": "data file:=ok.raw\ndata file: {}\n",
}


@pytest.mark.parametrize("how", HIDDEN_NAMES)
def test_no_way_of_writing_a_name_lets_itk_open_a_file_outside(tmp_path, how):
    inside = tmp_path / "src"
    inside.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(range(1, 253)) * 2)
    (inside / "ok.raw").write_bytes(bytes(range(1, 253)) * 2)
    endings, start = ((".nrrd", ".nhdr"), _NRRD) if "nrrd" in how else ((".mhd", ".mha"), _META)
    for ending in endings:
        path = inside / f"a{ending}"
        path.write_text(start + HIDDEN_NAMES[how].format("../secret.raw"), newline="")
        assert re.search(r"not opened|does not name its data file", only_problem(inside))
        path.unlink()


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".mhd", _META + "ElementDataFile = ok.raw\n"),
        (".mhd", _META.replace("\n", "\r\n") + "ElementDataFile = ok.raw\r\n"),
        (".nhdr", _NRRD + "data file: ok.raw\n"),
        (".nhdr", _NRRD + "# " + "x" * 70_000 + "\ndatafile: ok.raw\n"),
    ],
)
def test_a_sound_detached_header_is_read(tmp_path, ending, text):
    (tmp_path / "ok.raw").write_bytes(bytes(range(1, 253)) * 2)
    (tmp_path / f"a{ending}").write_text(text, newline="")
    series, _ = scan_tree(tmp_path.resolve())
    assert [each.files for each in series] == [(f"a{ending}", "ok.raw")] and not series[0].problem


def test_archives_are_listed_and_not_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../climbs/out", bytes(10_000_000))
    (tmp_path / "no_ending").write_bytes((tmp_path / "bomb.zip").read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    assert strays_of(tmp_path) == {
        "bomb.zip": "zip archive: not opened; unpack it first",
        "no_ending": "zip archive: not opened; unpack it first",
        "a.tar.gz": "gzip archive: not opened; unpack it first",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "bomb.zip", "no_ending"]


@links
def test_links_are_not_followed(tmp_path):
    write_series(tmp_path / "outside")
    inside = tmp_path / "src"
    write_series(inside / "real")
    (inside / "out").symlink_to(tmp_path / "outside", target_is_directory=True)
    (inside / "loop").symlink_to(inside, target_is_directory=True)
    (inside / "file").symlink_to(next((tmp_path / "outside").iterdir()))
    (inside / "nowhere").symlink_to(tmp_path / "gone")
    (series,), strays = scan_tree(inside.resolve())
    assert series.folder == "real" and {stray.file for stray in strays} == {"out", "loop", "file", "nowhere"}
    assert all("link, not followed" in stray.reason for stray in strays)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert strays_of(tmp_path) == {"pipe": "not a regular file"}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_a_name_that_is_no_utf8_is_said(tmp_path):
    (tmp_path / os.fsdecode(b"M\xfcller")).write_bytes(b"x")
    assert "not valid UTF-8" in next(iter(strays_of(tmp_path).values()))


def test_what_may_not_be_opened_is_said(tmp_path, monkeypatch):
    """Simulate the refusal, since root may open every file."""
    write_series(tmp_path / "closed")
    (tmp_path / "file").write_bytes(b"x")
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    files, strays = walk(tmp_path.resolve())
    assert [found.file for found in files] == ["file"]
    assert strays == [Stray("closed/", "folder cannot be opened (permission denied)")]
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert classify_file(tmp_path.resolve(), files[0]) == Stray("file", "cannot be opened (permission denied)")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
def test_a_file_without_rights_spoils_nothing_else(tmp_path):
    write_series(tmp_path / "a")
    closed = tmp_path / "closed.nii"
    written(closed, volume())
    closed.chmod(0)
    series, strays = scan_tree(tmp_path.resolve())
    assert len(series) == 1 and "permission denied" in strays[0].reason


def test_empty_and_foreign_files_are_grouped(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    assert strays_of(tmp_path) == {"empty": "empty file", "notes.txt": "unknown file format"}


def test_several_processes_find_what_one_finds(tmp_path, monkeypatch):
    for number in range(3):
        write_series(tmp_path / f"s{number}")
    monkeypatch.setattr("nnunet_anatomix.clinical.intake.scan_tree._CHUNK", 2)
    assert scan_tree(tmp_path.resolve(), workers=2) == scan_tree(tmp_path.resolve(), workers=1)
