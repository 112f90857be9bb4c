"""A dataset.json is read as by nnU-Net, and each defect gives one line with the file's name."""

from __future__ import annotations

import json

import pytest

from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import DatasetJson, parse_labels, read_dataset_json

SOUND = {
    "channel_names": {"0": "CT", "1": "T1"},
    "labels": {"background": 0, "liver": 1, "ignore": 2},
    "file_ending": ".nii.gz",
}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def described(**changes) -> DatasetJson:
    content = {**SOUND, **changes}
    return DatasetJson(
        where="dataset.json", content={name: value for name, value in content.items() if value is not None}
    )


def refused(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value) and "dataset.json" in str(caught.value)
    return str(caught.value)


def test_a_sound_file_says_what_it_says(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(SOUND))
    read = read_dataset_json(path)
    assert read.channel_names == ("CT", "T1") and read.file_ending == ".nii.gz"
    assert read.labels == {"background": (0,), "liver": (1,), "ignore": (2,)} and read.foreground == {"liver": (1,)}
    assert not read.has_regions and read.require_background() is None


def test_channels_come_in_the_order_of_their_numbers_by_either_name():
    names = {str(number): f"c{number}" for number in (2, 11, 0, 1, 3, 4, 5, 6, 7, 8, 9, 10)}
    assert described(channel_names=names).channel_names == tuple(f"c{number}" for number in range(12))
    assert described(channel_names=None, modality={"0": "MRI"}).channel_names == ("MRI",)


@pytest.mark.parametrize(
    "content", [None, b"", b'{"labels"', b"\x00", b"\xff\xfe"], ids=["missing", "empty", "cut", "zeros", "no text"]
)
def test_a_file_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "dataset.json").write_bytes(content)
    assert "cannot read" in refused(lambda: read_dataset_json(tmp_path / "dataset.json"))


@pytest.mark.parametrize(
    ("content", "kind"), [("[1, 2]", "list"), ("7", "int"), ("null", "NoneType"), ('"labels"', "str")]
)
def test_a_file_that_holds_no_object(tmp_path, content, kind):
    (tmp_path / "dataset.json").write_text(content)
    assert f"holds a {kind}, expected an object" in refused(lambda: read_dataset_json(tmp_path / "dataset.json"))


@pytest.mark.parametrize(
    "names",
    [None, ["CT"], {}, "CT", {"1": "CT"}, {"0": "CT", "2": "T1"}, {"CT": 0}],
    ids=lambda names: json.dumps(names),
)
def test_channel_names_that_are_none(names):
    message = refused(lambda: described(channel_names=names).channel_names)
    assert (
        "expected channel_names such as" in message
        and f"found {'none' if names is None else json.dumps(names)}" in message
    )


@pytest.mark.parametrize("ending", [None, 7, "nii.gz", [".nii.gz"], ""])
def test_file_endings_that_are_none(ending):
    message = refused(lambda: described(file_ending=ending).file_ending)
    assert (
        "expected a file_ending such as .nii.gz" in message
        and f"found {'none' if ending is None else json.dumps(ending)}" in message
    )


@pytest.mark.parametrize(
    "labels",
    [None, ["background"], 3, {"liver": "1"}, {"liver": 1.5}, {"liver": 1.0}, {"liver": -1}, {"liver": True},
     {"liver": None}, {"liver": []}, {"liver": [1, [2]]}, {"liver": {"left": 1}}, {"0": "background", "1": "liver"}],
    ids=json.dumps,
)  # fmt: skip
def test_labels_that_are_none(labels):
    message = refused(lambda: described(labels=labels).labels)
    assert "expected labels as names with a number" in message and "found" in message


@pytest.mark.parametrize("labels", [{"liver": 1}, {"background": 1, "liver": 0}, {"background": [0]}, {}])
def test_labels_without_a_background(labels):
    assert 'expected the label "background": 0' in refused(described(labels=labels).require_background)


@pytest.mark.parametrize(
    "order", [None, [], [1, 2], [1, 2, 3, 4], [3, 1, 2], [0, 2, 3], [1, 2, "3"], [1, 2, True], {"whole": 1}, 1]
)
def test_regions_whose_numbers_are_not_theirs(order):
    damaged = described(labels=REGIONS, regions_class_order=order)
    assert "expected regions_class_order with one number of each of the 3 regions" in refused(
        damaged.require_region_numbers
    )


def test_regions_have_numbers_of_their_own():
    sound = described(labels={**REGIONS, "ignore": 4}, regions_class_order=[1, 2, 3])
    assert sound.has_regions and sound.require_region_numbers() is None
    assert sound.foreground == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def test_older_labels_are_read_where_they_may_be():
    older = {"0": "background", "1": "liver", "12": "liver", "spleen": "3", "kidney": 4.0}
    assert parse_labels(older, "dataset.json", older=True) == {
        "background": (0,),
        "liver": (1, 12),
        "spleen": (3,),
        "kidney": (4,),
    }
    for labels in ({"liver": "one"}, {"liver": 1.5}, {"liver": -1}, {"liver": True}, ["liver"]):
        assert "expected labels" in refused(lambda labels=labels: parse_labels(labels, "dataset.json", older=True))
