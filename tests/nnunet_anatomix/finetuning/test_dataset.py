"""Validation of raw datasets: bad scans are reported before planning."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.finetuning.dataset import check_cases, find_dataset
from pretraining.common.errors import InputError

SHAPE = (9, 11, 12)


def write(path, array, spacing=(1.0, 1.0, 2.0), origin=(0.0, 0.0, 0.0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: image.GetDimension()])
    image.SetOrigin(origin[: image.GetDimension()])
    sitk.WriteImage(image, str(path))


def scan(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, dtype=np.float32)


def labels(*values) -> np.ndarray:
    return np.random.default_rng(1).choice(np.array(values, dtype=np.uint8), SHAPE)


@pytest.fixture
def folder(nnunet):
    """Return a dataset of two cases with two channels and two labels."""
    folder = nnunet.raw / "Dataset043_Pair"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in ("a", "b"):
        for channel in range(2):
            write(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", scan(channel))
        write(folder / "labelsTr" / f"{case}.nii.gz", labels(0, 1, 2))
    describe(folder, {"background": 0, "liver": 1, "spleen": 2})
    return folder


def describe(folder, label_names, **more) -> None:
    description = {
        "channel_names": {"0": "CT", "1": "T1"},
        "labels": label_names,
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def image(folder, case="b", channel=1):
    return folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"


def label(folder, case="b"):
    return folder / "labelsTr" / f"{case}.nii.gz"


def test_a_valid_dataset_passes(folder, caplog):
    check_cases(find_dataset("43"))
    assert not caplog.records


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: image(folder).unlink(), r"names 2 channels, case 'b' has 1"),
        (lambda folder: write(image(folder), np.full(SHAPE, 7, dtype=np.float32)), r"b_0001.nii.gz is constant \(7"),
        (lambda folder: write(image(folder), scan(), spacing=(1, 1, 500)), "'b': b_0001.nii.gz: spacing of 1×1×500 mm"),
        (lambda folder: write(image(folder), scan()[:5]), "'b': cannot read"),
        (lambda folder: image(folder).write_bytes(b"no scan"), "'b': b_0001.nii.gz: (damaged|truncated)"),
        (lambda folder: label(folder).write_bytes(label(folder).read_bytes()[:60]), "'b': b.nii.gz: truncated"),
        (
            lambda folder: write(label(folder), labels(0, 1)[1:]),
            r"'b': image of \(9, 11, 12\) voxels, label of \(8, 11, 12\)",
        ),
        (lambda folder: write(label(folder), labels(0, 1), spacing=(1, 1, 3)), "'b': spacing of the image"),
        (lambda folder: write(label(folder), labels(0, 1), origin=(9, 0, 0)), "'b': origin of the image"),
        (lambda folder: write(label(folder), labels(0, 1, 7)), r"'b' hold the values \[7\]"),
        (
            lambda folder: write(label(folder), labels(0, 1).astype(np.float32) / 2),
            r"must hold whole numbers, found 0.5",
        ),
    ],
)
def test_a_bad_case_is_named_in_one_line(spoil, message, folder):
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        check_cases(find_dataset("43"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_voxels_are_refused(value, nnunet):
    folder = nnunet.raw / "Dataset043_Pair"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    spoilt = scan()
    spoilt[3, 4, 5] = value
    write(folder / "imagesTr" / "a_0000.nrrd", spoilt)
    write(folder / "labelsTr" / "a.nrrd", labels(0, 1))
    describe(folder, {"background": 0, "liver": 1}, channel_names={"0": "T1"}, file_ending=".nrrd")
    with pytest.raises(InputError, match=r"'a': a_0000.nrrd: 1 voxel is (NaN|infinite) on disk"):
        check_cases(find_dataset("43"))


def test_absurd_spacings_are_refused(folder):
    for channel in range(2):
        write(image(folder, "a", channel), scan(channel), spacing=(1, 1, 5000))
    write(label(folder, "a"), labels(0, 1), spacing=(1, 1, 5000))
    with pytest.raises(InputError, match=r"'a': a_0000.nii.gz: spacing of 1×1×5000 mm, expected 0.0001 to 100 mm"):
        check_cases(find_dataset("43"))


def test_2d_scans_are_refused(folder):
    for case in ("a", "b"):
        for channel in range(2):
            write(image(folder, case, channel), scan()[:1])
        write(label(folder, case), labels(0, 1)[:1])
    with pytest.raises(InputError, match="case 'a' is 2D"):
        check_cases(find_dataset("43"))


def test_a_label_in_no_case_causes_only_a_warning(folder, caplog):
    describe(folder, {"background": 0, "liver": 1, "spleen": 2, "uterus": 3})
    with caplog.at_level(logging.WARNING):
        check_cases(find_dataset("43"))
    assert "no training case contains label [3] ['uterus']" in caplog.text


def test_regions_and_the_ignore_label_count_as_known(folder, caplog):
    describe(folder, {"background": 0, "both": [1, 2], "liver": 1, "ignore": 3}, regions_class_order=[2, 1])
    write(label(folder), labels(0, 1, 2, 3))
    with caplog.at_level(logging.WARNING):
        check_cases(find_dataset("43"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("label_names", "more", "message"),
    [
        ({"liver": 1, "spleen": 2}, {}, '"background": 0, found none'),
        ({"background": 1, "liver": 0}, {}, '"background": 0, found 1'),
        ({"background": [0], "liver": 1}, {}, r'"background": 0, found \[0\]'),
        (["background", "liver"], {}, "expected labels as names with a number"),
        (None, {}, "expected labels as names with a number"),
        ({"background": 0, "liver": "1"}, {}, "expected labels as names with a number"),
        ({"background": 0, "liver": 1.5}, {}, "expected labels as names with a number"),
        ({"background": 0, "liver": {"left": 1}}, {}, "expected labels as names with a number"),
        ({"background": 0, "liver": []}, {}, "expected labels as names with a number"),
        ({"0": "background", "1": "liver"}, {}, "expected labels as names with a number"),
        ({"background": 0, "liver": 1, "spleen": 3}, {}, r"expected the labels 0 to 2, found \[0, 1, 3\]"),
        ({"background": 0, "liver": 1, "ignore": 1}, {}, "expected 2 for the label ignore"),
        ({"background": 0, "liver": 1, "ignore": [2]}, {}, "expected 2 for the label ignore"),
        (
            {"background": 0, "both": [1, 2], "liver": 1},
            {},
            "expected regions_class_order with one number of each of the 2 regions, found none",
        ),
        (
            {"background": 0, "both": [1, 2], "liver": 1},
            {"regions_class_order": [1]},
            r"one number of each of the 2 regions, found \[1\]",
        ),
        ({"background": 0, "both": [1, 2], "liver": 1}, {"regions_class_order": {"a": 1}}, "each of the 2 regions"),
        ({"background": 0, "liver": 1}, {"channel_names": ["CT", "T1"]}, "expected channel_names such as"),
        ({"background": 0, "liver": 1}, {"channel_names": {"1": "CT", "2": "T1"}}, "numbered from 0 on"),
        ({"background": 0, "liver": 1}, {"file_ending": 7}, "expected a file_ending such as"),
    ],
)
def test_invalid_labels_in_dataset_json_are_refused_in_one_line(folder, label_names, more, message):
    describe(folder, label_names, **more)
    with pytest.raises(InputError, match=message) as caught:
        find_dataset("43")
    assert "\n" not in str(caught.value)


def test_the_format_before_version_2_is_refused_with_the_line_to_write(folder):
    describe(folder, {"0": "background", "1": "liver"})
    with pytest.raises(InputError, match=r'before nnU-Net version 2; write \{"background": 0, "liver": 1\}'):
        find_dataset("43")


@pytest.mark.parametrize("name", ["SimpelITKIO", "LIST_OF_IO_CLASSES", 7])
def test_a_reader_that_nnunet_does_not_have_is_refused(folder, name):
    describe(folder, {"background": 0, "liver": 1}, overwrite_image_reader_writer=name)
    with pytest.raises(InputError, match=r"one of nnU-Net's readers \(.*SimpleITKIO.*\), found") as caught:
        find_dataset("43")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["NibabelIOWithReorient", "None"])
def test_readers_of_nnunet_pass(folder, name):
    describe(folder, {"background": 0, "liver": 1}, overwrite_image_reader_writer=name)
    find_dataset("43")


def test_files_of_macos_are_named(folder):
    for part, name in (("imagesTr", "._a_0000.nii.gz"), ("labelsTr", "._a.nii.gz")):
        (folder / part / name).write_bytes(b"\0\5\x16\7")
    with pytest.raises(InputError, match=r"1 files are not scans .* '\._a_0000\.nii\.gz'; .* -name '\._\*' -delete"):
        find_dataset("43")
    (folder / "imagesTr" / "._a_0000.nii.gz").unlink()
    find_dataset("43")


def test_4d_scans_are_refused_by_name(folder):
    both = sitk.JoinSeries([sitk.GetImageFromArray(scan(seed)) for seed in (0, 1)])
    sitk.WriteImage(both, str(image(folder, "a", 0)))
    with pytest.raises(InputError, match=r"case 'a': a_0000\.nii\.gz: 4D: 2 volumes in one file"):
        check_cases(find_dataset("43"))


@pytest.mark.parametrize("content", ["[1, 2]", "7", "null", '{"labels"', ""])
def test_a_damaged_dataset_json_is_refused_in_one_line(folder, content):
    (folder / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json") as caught:
        find_dataset("43")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused_even_if_nnunets_reader_repairs_them(folder):
    spoilt = scan()
    spoilt[2, 3, 4] = np.nan
    write(image(folder), spoilt)
    with pytest.raises(InputError, match=r"case 'b': b_0001\.nii\.gz: 1 voxel is NaN on disk"):
        check_cases(find_dataset("43"))
