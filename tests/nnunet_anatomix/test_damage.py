"""Damaged images: every command gives the same message, and none allocates what a header claims."""

from __future__ import annotations

import gzip
import json
import logging
import re
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.commands.features import features
from nnunet_anatomix.datasets.case_files import convert_case
from nnunet_anatomix.datasets.layout import SourceCase
from nnunet_anatomix.finetuning.dataset import check_cases, find_dataset
from nnunet_anatomix.registration.atlas.align import align_scans
from nnunet_anatomix.registration.atlas.template import AtlasScan
from nnunet_anatomix.registration.batch import BatchSettings, PairFiles, register_pair
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.start.initial import file_start
from nnunet_anatomix.registration.tuning.pairs import SearchPair, load_pair
from nnunet_anatomix.scores.segmentation import evaluate_segmentation
from pretraining.imaging.headers import read_header
from pretraining.imaging.integrity import check_file, require_volume
from pretraining.imaging.label_files import read_labels, read_size
from pretraining.imaging.rejection import Rejected, Unusable
from pretraining.imaging.scans import load_image
from pretraining.probing.aligned import BRAIN_LABELS, read_brain
from tests.pretraining.imaging.raw_nifti import raw_nifti

SHAPE = (12, 10, 9)
QFORM = (1, (0.0, 0.0, 0.0, -3.0, 4.0, 5.0))


def voxels(dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 90, SHAPE).astype(dtype)


def spoilt(value: float, count: int) -> np.ndarray:
    array = voxels()
    array.reshape(-1)[10 : 10 + count] = value
    return array


def plain(path: Path, **options) -> Path:
    return raw_nifti(path, options.pop("array", voxels()), **{"qform": QFORM, "spacing": (1.5, 1.0, 2.0)} | options)


def by_itk(path: Path, compress: bool) -> Path:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 9000, SHAPE).astype(np.int16))
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def flipped(content: bytes) -> bytes:
    at = len(content) * 2 // 3
    return content[:at] + bytes([content[at] ^ 0x5A]) + content[at + 1 :]


def other_checksum(content: bytes) -> bytes:
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


def nrrd_claim(path: Path) -> Path:
    """Write a small file whose header claims 1600 voxels per side."""
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 1600 1600 1600\nendian: little\n"
    )
    header += "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: gzip\n"
    header += "space origin: (0,0,0)\n\n"
    path.write_bytes(header.encode() + gzip.compress(bytes(8_000_000), mtime=0))
    return path


def mha_claim(path: Path, sides: str) -> Path:
    header = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 1\nDimSize = {sides}\n"
    path.write_bytes(f"{header}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + bytes(1000))
    return path


DAMAGES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "NaN": (".nii.gz", lambda path: plain(path, array=spoilt(np.nan, 7)), r"^7 voxels are NaN on disk"),
    "NaN in big endian": (
        ".nii",
        lambda path: plain(path, array=spoilt(np.nan, 1), order=">"),
        r"^1 voxel is NaN on disk",
    ),
    "NaN in 64 bits": (
        ".nii.gz",
        lambda path: plain(path, array=spoilt(np.nan, 1000).astype("f8")),
        r"^1,000 voxels are NaN on disk",
    ),
    "infinity": (".nii", lambda path: plain(path, array=spoilt(-np.inf, 2)), r"^2 voxels are infinite on disk"),
    "cut gzip": (
        ".nii.gz",
        lambda path: changed(plain(path), lambda content: content[: len(content) // 2]),
        "^truncated: ",
    ),
    "one byte of gzip less": (
        ".nii.gz",
        lambda path: changed(plain(path), lambda content: content[:-1]),
        "^truncated: ",
    ),
    "cut before it was compressed": (
        ".nii.gz",
        lambda path: plain(path, keep=1000),
        "^truncated: .* bytes of voxels are missing",
    ),
    "cut NIfTI": (
        ".nii",
        lambda path: plain(path, keep=1000),
        "^truncated: 3,672 of 4,320 bytes of voxels are missing",
    ),
    "cut NRRD": (
        ".nrrd",
        lambda path: changed(by_itk(path, False), lambda content: content[:-9]),
        "^truncated: 9 of 2,160 bytes",
    ),
    "cut MetaImage": (
        ".mha",
        lambda path: changed(by_itk(path, False), lambda content: content[:-9]),
        "^truncated: 9 of 2,160 bytes",
    ),
    "cut compressed NRRD": (
        ".nrrd",
        lambda path: changed(by_itk(path, True), lambda content: content[:-9]),
        "^truncated: ",
    ),
    "cut compressed MetaImage": (
        ".mha",
        lambda path: changed(by_itk(path, True), lambda content: content[:-9]),
        "^truncated: ",
    ),
    "corrupt gzip": (".nii.gz", lambda path: changed(plain(path), flipped), "^(damaged|truncated): "),
    "other checksum": (
        ".nii.gz",
        lambda path: changed(plain(path), other_checksum),
        "^damaged: the checksum of its compressed voxels differs",
    ),
    "corrupt NRRD": (".nrrd", lambda path: changed(by_itk(path, True), flipped), "^(damaged|truncated): "),
    "corrupt MetaImage": (".mha", lambda path: changed(by_itk(path, True), flipped), "^(damaged|truncated): "),
    "spacing of 0": (".nii.gz", lambda path: plain(path, spacing=(1, 0, 1)), "^spacing of 1×0×1 mm, expected"),
    "spacing NaN": (".nii", lambda path: plain(path, spacing=(np.nan, 1, 1)), "^spacing of nan×1×1 mm, expected"),
    "spacing infinite": (".nii", lambda path: plain(path, spacing=(1, 1, np.inf)), "^spacing of 1×1×inf mm, expected"),
    "spacing absurd": (".nii", lambda path: plain(path, spacing=(1e-30, 1e-30, 1e-30)), "^spacing of 1e-30×"),
    "spacing of 0 in MetaImage": (
        ".mha",
        lambda path: changed(
            by_itk(path, False), lambda content: content.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1")
        ),
        "^spacing of 1×0×1 mm",
    ),
    "origin absurd": (
        ".nii",
        lambda path: plain(path, qform=(1, (0, 0, 0, 1e30, 0, 0))),
        r"^its first voxel is at \(1e\+30, 0, 0\) mm",
    ),
    "origin NaN": (
        ".nii",
        lambda path: plain(path, qform=(1, (0, 0, 0, np.nan, 0, 0))),
        r"^its first voxel is at \(nan, 0, 0\) mm",
    ),
    "colour": (
        ".nii.gz",
        lambda path: plain(path, array=voxels("u1"), kind=128, dims=(4, 10, 9)),
        "^3 values per voxel",
    ),
    "complex": (".nii.gz", lambda path: plain(path, array=voxels().astype("c8")), "^complex numbers"),
    "vectors": (".nii.gz", lambda path: plain(path, dims=(6, 10, 9, 1, 2)), "^2 values per voxel"),
    "4D": (".nii.gz", lambda path: plain(path, dims=(6, 10, 9, 2)), "^4D: 2 volumes in one file"),
    "claims too much in NIfTI": (
        ".nii",
        lambda path: plain(path, dims=(30000, 30000, 30000)),
        "^its header claims 30000 x 30000 x 30000",
    ),
    "claims too much in NRRD": (".nrrd", nrrd_claim, "^its header claims 1600 x 1600 x 1600 voxels"),
    "claims more than there is": (
        ".mha",
        lambda path: mha_claim(path, "900 900 900"),
        "^truncated: 1,457,999,000 of 1,458,000,000 bytes",
    ),
    "claims more than gzip can hold": (
        ".nii.gz",
        lambda path: plain(path, dims=(900, 900, 900)),
        "^truncated: .* compressed bytes cannot contain the 2,916,000,000 bytes",
    ),
    "no image": (".nii.gz", lambda path: path.write_text("Dear diary,\n" * 50) and path, "^(damaged|truncated): "),
    "nothing": (".nii.gz", lambda path: path.write_bytes(b"") or path, "^empty file$"),
}


def sound(folder: Path, suffix: str, name: str = "sound") -> Path:
    path = folder / f"{name}{suffix}"
    return plain(path, array=voxels("i2")) if ".nii" in suffix else by_itk(path, False)


MIND = RegistrationConfig(init="none", descriptors=DescriptorConfig(feature_weight=0.0))


def register_fixed(path: Path, suffix: str, folder: Path) -> None:
    pair = PairFiles(name="pair", fixed=path, moving=sound(folder, suffix))
    register_pair(pair, folder / "out", BatchSettings(config=MIND, weights=None), progress=False)


def register_labels(path: Path, suffix: str, folder: Path) -> None:
    fixed = sound(folder, suffix)
    pair = PairFiles(name="pair", fixed=fixed, moving=fixed, fixed_labels=fixed, moving_labels=path)
    register_pair(pair, folder / "out", BatchSettings(config=MIND, weights=None), progress=False)


def features_of(path: Path, suffix: str, folder: Path) -> None:
    features(path, folder / "f.nii.gz", device="cpu")


def align(path: Path, suffix: str, folder: Path) -> None:
    align_scans([AtlasScan(name="only", scan=path)], folder / "out")


def search(path: Path, suffix: str, folder: Path) -> None:
    good = sound(folder, suffix)
    load_pair(
        SearchPair(name="pair", fixed=good, moving=path, fixed_labels=good, moving_labels=good), torch.device("cpu")
    )


def plan(path: Path, suffix: str, folder: Path, label: Path | None = None) -> None:
    raw = Path(folder / "nnUNet_raw" / "Dataset043_One")
    label = label or sound(folder, suffix)
    for part, name, content in (("imagesTr", f"a_0000{suffix}", path), ("labelsTr", f"a{suffix}", label)):
        (raw / part).mkdir(parents=True)
        (raw / part / name).write_bytes(content.read_bytes())
    described = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 1,
        "file_ending": suffix,
    }
    (raw / "dataset.json").write_text(json.dumps(described))
    check_cases(find_dataset("43"))


def intake(path: Path, suffix: str, folder: Path) -> None:
    (folder / "clinic").mkdir()
    (folder / "clinic" / f"scan{suffix}").write_bytes(path.read_bytes())
    found, strays = scan_tree((folder / "clinic").resolve())
    for problem in [*(stray.reason for stray in strays), *(series.problem for series in found)]:
        if problem:
            raise Unusable(problem)
    read_series(folder / "clinic", found[0])


def templates(path: Path, suffix: str, folder: Path) -> None:
    read_labels(path)


def evaluate(path: Path, suffix: str, folder: Path) -> None:
    for part, content in (("predicted", path), ("true", sound(folder, suffix))):
        (folder / part).mkdir()
        (folder / part / f"a{suffix}").write_bytes(content.read_bytes())
    evaluate_segmentation(folder / "predicted", folder / "true", out=folder / "scores")


def judge(path: Path, suffix: str, folder: Path) -> None:
    if suffix != ".nii.gz":  # the only one whose names it knows
        load_image(path)
    for name in ("t1.nii.gz", BRAIN_LABELS):
        sound(folder, ".nii.gz", name.removesuffix(".nii.gz"))
    (folder / "t2.nii.gz").write_bytes(path.read_bytes())
    read_brain(folder, ("t2",), count=10)


def prepare(path: Path, suffix: str, folder: Path) -> None:
    case = SourceCase(name="a", image=path, label=sound(folder, suffix))
    convert_case(case, folder / "a_0000.nii.gz", folder / "a.nii.gz", {0: 0}, "Dataset")


ENTRANCES = (
    register_fixed,
    register_labels,
    features_of,
    align,
    search,
    plan,
    intake,
    templates,
    evaluate,
    judge,
    prepare,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_gives_the_same_verdict(nnunet, tmp_path, damage):
    suffix, make, said = DAMAGES[damage]
    path = make(tmp_path / f"scan{suffix}")
    with pytest.raises(Rejected, match=said) as caught:
        require_volume(check_file(path))
    verdict = str(caught.value)
    for number, entrance in enumerate(ENTRANCES):
        folder = tmp_path if entrance is plan else tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises((ValueError, RuntimeError, Unusable)) as refused:
            entrance(path, suffix, folder)
        assert verdict in str(refused.value) and "\n" not in str(refused.value), entrance.__name__
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, entrance.__name__  # KiB
        assert not list(folder.rglob("registration.json"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_valid_files_pass(tmp_path, suffix):
    path = sound(tmp_path, suffix)
    image, note = load_image(path)
    assert image.GetSize() == (SHAPE if ".nii" in suffix else SHAPE[::-1]) and not note
    assert read_size(path) == image.GetSize()


def test_a_displacement_field_with_nan_is_refused(tmp_path):
    path = plain(tmp_path / "field.nii.gz", array=np.full((6, 5, 4, 1, 3), np.nan, "f4"))
    scan = sitk.ReadImage(str(sound(tmp_path, ".nii.gz")))
    with pytest.raises(ValueError, match="360 voxels are NaN on disk"):
        file_start(path, scan, scan)


def sform(turn: float = 0.0, shear: float = 0.0) -> np.ndarray:
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.array([[1.5 * cosine, shear - sine, 0, -3], [1.5 * sine, cosine, 0, 4], [0, 0, 2, 5]])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sform": (1, sform())}, ""),
        ({"sform": (1, sform(0.3))}, "its sform and qform disagree, by up to 5.* mm; the sform is used"),
        ({"sform": (2, sform(0.3))}, "its sform and qform disagree, by up to 5.* mm; the qform is used"),
        (
            {"sform": (1, sform(shear=0.4))},
            r"its sform and qform disagree, by up to 3\.6 mm \(the sform is sheared\); the qform is used",
        ),
        ({"sform": (1, sform()), "qfac": -1.0}, "its sform and qform disagree, by up to 32 mm; the sform is used"),
        (
            {"sform": (1, sform() * 2), "qform": (0, QFORM[1])},
            "its sform and its voxel sizes disagree, by up to .*; the voxel sizes are used",
        ),
    ],
    ids=["agree", "turned", "turned, aligned", "sheared", "flipped", "scaled"],
)
def test_the_used_orientation_is_reported(tmp_path, nnunet, caplog, options, said):
    path = plain(tmp_path / "scan.nii.gz", **options)
    found = load_image(path)[1]
    assert re.fullmatch(said, found), found
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="hold the values"):  # the labels are noise
        plan(path, ".nii.gz", tmp_path, label=path)
    assert (found in caplog.text) if said else not caplog.records
    intake_folder = tmp_path / "in"
    intake_folder.mkdir()
    (intake_folder / "scan.nii.gz").write_bytes(path.read_bytes())
    (series,), _ = scan_tree(intake_folder.resolve())
    assert series.notes == ((found,) if said else ())


def test_sheared_axes_without_a_second_orientation_are_refused(tmp_path):
    path = plain(tmp_path / "scan.nii.gz", sform=(1, sform(shear=0.4)), qform=(0, QFORM[1]))
    with pytest.raises(Rejected, match=r"not at right angles \(sheared\)"):
        load_image(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("files/nan.nii.gz", "2,688 voxels are NaN on disk"),
        ("files/cut.nii.gz", "truncated"),
        ("files/origin_1e30.nii", r"is at \(1e\+30, -0, 0\) mm"),
        ("files/spacing_1e-30.nii", "spacing of 1e-30×1e-30×1e-30 mm"),
        ("files/truncated.mha", "53,910 of 107,520 bytes of voxels are missing"),
        ("registration/nan.nii.gz", "7,590 voxels are NaN on disk"),
        ("registration/s_shear.nii.gz", "sheared"),
        ("registration/sq_shear.nii.gz", "the qform is used"),
        ("registration/sq_flip.nii.gz", "the sform is used"),
        ("registration/sq_rot.nii.gz", "the sform is used"),
    ],
)
def test_files_of_past_failures_give_the_right_message(data_root, name, said):
    path = data_root.parent / "cases" / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    if "used" in said:
        assert said in load_image(path)[1]
        return
    with pytest.raises(Rejected, match=said):
        load_image(path)


def test_a_header_is_read_without_the_voxels(tmp_path):
    header = read_header(plain(tmp_path / "scan.nii.gz", array=voxels("i2")))
    assert (
        header.size == SHAPE
        and header.values == 1
        and header.data_bytes == 2 * np.prod(SHAPE)
        and header.spacing_mm == (1.5, 1.0, 2.0)
    )
    assert read_header(tmp_path / "picture.png") is None
