"""Label files are found in every layout, in an order that depends on names alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pretraining.common.errors import InputError
from pretraining.templates.sources import Group, PlainFolder, ProceduralShapes, find_sources


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def named(found) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(group.source, group.subject, group.names) for group in found]


def test_totalsegmentator_folders_of_either_version(tmp_path):
    for subject in ("s0010", "s0002"):
        folder = tmp_path / "ts" / subject
        touch(
            folder / "ct.nii.gz", folder / "segmentations" / "liver.nii.gz", folder / "segmentations" / "aorta.nii.gz"
        )
    touch(tmp_path / "ts" / "meta.csv", tmp_path / "ts" / "s0002" / "segmentations" / "._liver.nii.gz")
    names = ("aorta.nii.gz", "liver.nii.gz")
    found, rejected = find_sources([tmp_path / "ts"])
    # The scan that lies beside the masks is none of them, and is not read to find that out.
    assert named(found) == [("ts", "s0002", names), ("ts", "s0010", names)] and not rejected
    for source in (tmp_path / "ts" / "s0002", tmp_path / "ts" / "s0002" / "segmentations"):
        assert [(group.subject, group.names) for group in find_sources([source])[0]] == [("s0002", names)]


def test_maps_with_names_are_a_subject_each(tmp_path):
    folder = tmp_path / "set" / "maps"
    touch(
        folder / "labels.json",
        folder / "b.nrrd",
        folder / "a.nii.gz",
        folder / "a.MHA",
        folder / "notes.txt",
        folder / ".c.nii",
    )
    found, _ = find_sources([tmp_path / "set"])
    assert named(found) == [
        ("set/maps", "a.MHA", ("a.MHA",)),
        ("set/maps", "a.nii.gz", ("a.nii.gz",)),
        ("set/maps", "b", ("b.nrrd",)),
    ]


def test_the_content_of_a_plain_folder_decides(tmp_path):
    touch(tmp_path / "set" / "patient" / "liver.nii.gz", tmp_path / "set" / "patient" / "spleen.nii")
    ((folder,), _) = find_sources([tmp_path / "set"])
    assert isinstance(folder, PlainFolder) and len(folder.files) == 2
    assert named(folder.groups(one_subject=True)) == [("set", "patient", ("liver.nii.gz", "spleen.nii"))]
    assert named(folder.groups(one_subject=False)) == [
        ("set/patient", "liver", ("liver.nii.gz",)),
        ("set/patient", "spleen", ("spleen.nii",)),
    ]
    ((folder,), _) = find_sources([tmp_path / "set" / "patient"])
    assert named(folder.groups(one_subject=True))[0][:2] == ("patient", "patient")


def test_of_an_nnunet_dataset_the_training_labels_alone(tmp_path):
    for dataset in ("Dataset001_A", "Dataset002_B"):
        folder = tmp_path / "raw" / dataset
        touch(folder / "dataset.json", folder / "labelsTs" / "c.nii.gz", folder / "stray.nii.gz")
        touch(*(folder / place / f"{case}.nii.gz" for place in ("imagesTr", "labelsTr") for case in ("a_0000", "b")))
    found, rejected = find_sources([tmp_path / "raw"])
    assert named(found) == [
        (f"raw/{dataset}", subject, (f"{subject}.nii.gz",))
        for dataset in ("Dataset001_A", "Dataset002_B")
        for subject in ("a_0000", "b")
    ]
    assert {group.names_file for group in found} == {
        tmp_path / "raw" / name / "dataset.json" for name in ("Dataset001_A", "Dataset002_B")
    }
    assert [line.what.rpartition("/")[2] for line in rejected] == ["labelsTs"] * 2 and "test cases" in rejected[0].why
    # One dataset, and the folders in it by name, whoever asks for the test cases.
    folder = tmp_path / "raw" / "Dataset001_A"
    assert [group[:2] for group in named(find_sources([folder])[0])] == [
        ("Dataset001_A", "a_0000"),
        ("Dataset001_A", "b"),
    ]
    for name in ("labelsTr", "labelsTs"):
        assert {group.names_file for group in find_sources([folder / name])[0]} == {folder / "dataset.json"}
    # Without labels there is nothing but a plain folder.
    touch(tmp_path / "bids" / "dataset.json", tmp_path / "bids" / "a.nii.gz")
    assert isinstance(find_sources([tmp_path / "bids"])[0][0], PlainFolder)


def test_sources_of_one_name_keep_their_subjects_apart(tmp_path):
    touch(
        tmp_path / "a" / "ts" / "s1" / "segmentations" / "liver.nii",
        tmp_path / "b" / "ts" / "s1" / "segmentations" / "liver.nii",
    )
    found, _ = find_sources([tmp_path / "a" / "ts", tmp_path / "b" / "ts"])
    assert [(group.source, group.subject) for group in found] == [("ts", "s1"), ("ts (2)", "s1")]


def test_links_are_followed_but_not_in_circles(tmp_path):
    data = tmp_path / "data"
    touch(data / "s1" / "segmentations" / "liver.nii.gz", tmp_path / "elsewhere" / "segmentations" / "liver.nii.gz")
    (data / "s1" / "again").symlink_to(data, target_is_directory=True)
    (data / "s1" / "itself").symlink_to(data / "s1" / "itself")
    (data / "s2").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found, rejected = find_sources([data])
    assert [(group.folder.parent, group.subject) for group in found] == [(data / "s1", "s1"), (data / "s2", "s2")]
    assert [(line.what, line.why) for line in rejected] == [(str(data / "s1" / "again"), "reached twice, used once")]
    found, rejected = find_sources([data, data, data / "s1"])
    assert len(found) == 2 and len(rejected) == 3


def test_a_folder_that_may_not_be_read_is_reported(tmp_path, monkeypatch):
    touch(
        tmp_path / "ts" / "s1" / "segmentations" / "liver.nii.gz",
        tmp_path / "ts" / "s2" / "segmentations" / "liver.nii.gz",
    )
    locked, usual = str(tmp_path / "ts" / "s1"), os.scandir

    def scandir(path):
        if os.fspath(path) == locked:
            raise PermissionError(13, "Permission denied", locked)
        return usual(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the tests may run as root, who may read everything
    found, rejected = find_sources([tmp_path / "ts"])
    assert [group.subject for group in found] == ["s2"]
    assert [(line.what, line.why) for line in rejected] == [(locked, "unreadable (Permission denied)")]
    with pytest.raises(InputError, match=r"no label files under .*s1.*Permission denied"):
        find_sources([tmp_path / "ts" / "s1"])


def test_the_nearest_licence_counts(tmp_path):
    touch(*(tmp_path / name / "segmentations" / "liver.nii.gz" for name in ("a/s1", "a/s2", "b/s3")))
    (tmp_path / "a" / "LICENSE").write_text("\n  CC BY 4.0\nmore\n")
    (tmp_path / "a" / "s2" / "LICENCE.txt").write_text("CC0\n")
    (tmp_path / "b" / "LICENSES").mkdir()

    def licences(sources, given=()):
        return [group.licence for group in find_sources(sources, given)[0]]

    a, b = tmp_path / "a", tmp_path / "b"
    assert licences([a, b]) == ["CC BY 4.0", "CC0", ""]
    assert (
        licences([tmp_path], ["mine"])
        == licences([a, b], ["mine"])
        == licences([a, b], ["yours", "mine"])
        == ["CC BY 4.0", "CC0", "mine"]
    )
    with pytest.raises(InputError, match="one licence for all sources or one for each of the 1, found 2"):
        licences([a], ["mine", "yours"])


def test_procedural_shapes_unless_a_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = [Path(name) for name in ("procedural", "procedural:7")]
    assert find_sources(sources, ["CC0"])[0] == [
        ProceduralShapes(count=160, licence="CC0"),
        ProceduralShapes(count=7, licence="CC0"),
    ]
    touch(tmp_path / "procedural" / "a.nii")
    assert isinstance(find_sources(sources[:1])[0][0], PlainFolder)


def test_a_single_file_and_what_is_not_there(tmp_path):
    touch(tmp_path / "a.nii.gz")
    ((group,), _) = find_sources([tmp_path / "a.nii.gz"])
    assert isinstance(group, Group) and named([group]) == [("a.nii.gz", "a", ("a.nii.gz",))]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no label files under .*empty; expected \.nii\.gz"):
        find_sources([tmp_path / "empty"])
    for missing in ("missing", "procedural:0", "procedural:many"):
        with pytest.raises(InputError, match="no such template source"):
            find_sources([tmp_path / missing])
