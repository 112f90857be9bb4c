"""Organs from files: ribs and vertebrae are merged, and organs keep their positions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pretraining.bank.packing import unpack
from pretraining.templates import organs
from pretraining.templates.organs import common_size, is_one_subject, merged_name, read_group
from pretraining.templates.sources import Group
from tests.pretraining.templates.label_maps import box, save


def read(folder, spacing_mm: float = 1.5, min_voxels: int = 8):
    names = tuple(sorted(path.name for path in folder.iterdir() if path.suffix != ".json"))
    return read_group(Group(source="ts", subject="s1", folder=folder, names=names), spacing_mm, min_voxels)


def reasons(content) -> dict[str, str]:
    return {what.rsplit("/", 1)[-1]: why for what, why, _ in content.rejected}


@pytest.mark.parametrize(
    ("merged", "names"),
    [
        ("ribs", ["rib_left_1", "rib_right_12", "ribs", "Rib 3", "rib-4", "rib7", "left_rib_5"]),
        (
            "vertebrae",
            ["vertebrae_C1", "vertebrae_T12", "vertebrae_L5", "vertebrae_S1", "vertebrae", "Vertebra L1", "vertebra-2"],
        ),
    ],
)
def test_ribs_and_vertebrae_are_merged(merged, names):
    assert {merged_name(name) for name in names} == {merged}


@pytest.mark.parametrize(
    "organ",
    # The first row is of TotalSegmentator (v2 alone has cartilages, sternum and spinal_cord), the
    # second of other sets.
    [
        *("costal_cartilages", "sternum", "spinal_cord", "sacrum", "autochthon_left", "scapula_left", "face"),
        *("rib_cartilage", "intervertebral_discs", "vertebral_artery_left", "cribriform_plate", "label_1"),
    ],
)
def test_nothing_else_is_merged(organ):
    assert merged_name(organ) == organ


def test_real_organ_names_are_merged_to_two(data_root):
    folder = data_root / "templates" / "totalsegmentator" / "s0327" / "segmentations"
    names = [path.name.removesuffix(".nii.gz") for path in folder.iterdir()]
    merged = [merged_name(name) for name in names]
    assert merged.count("ribs") == 24 and merged.count("vertebrae") == 25
    kept = set(merged) - {"ribs", "vertebrae"}
    assert (
        kept == {name for name in names if not name.startswith(("rib_", "vertebrae_"))}
        and {"costal_cartilages", "sacrum"} <= kept
    )


def test_merged_organs_lie_where_their_parts_lay(tmp_path):
    save(tmp_path / "rib_left_1.nii.gz", box(1, 3))
    save(tmp_path / "rib_right_12.nii.gz", box(6, 9))
    save(tmp_path / "liver.nii.gz", box(4, 9))
    masks = read(tmp_path).masks
    assert (
        masks["ribs"].offset == (1, 1, 1) and masks["liver"].offset == (4, 4, 4) and masks["liver"].voxel_count == 125
    )
    ribs = unpack(masks["ribs"].bits, masks["ribs"].shape)
    assert (
        np.array_equal(ribs, (box(1, 3) | box(6, 9))[1:9, 1:9, 1:9] > 0)
        and masks["ribs"].voxel_count == ribs.sum() == 35
    )


def test_labels_of_one_map_with_and_without_names(tmp_path):
    labels = box(0, 4) + box(4, 8, value=7) + box(8, 12, value=9)
    save(tmp_path / "case.nii.gz", labels)
    masks = read(tmp_path).masks
    assert {organ: mask.offset for organ, mask in masks.items()} == {
        "label_1": (0, 0, 0),
        "label_7": (4, 4, 4),
        "label_9": (8, 8, 8),
    }
    (tmp_path / "labels.json").write_text(json.dumps({"aorta": 1, "vertebrae_L1": 7, "vertebrae_L2": 9}))
    masks = read(tmp_path).masks
    assert (
        sorted(masks) == ["aorta", "vertebrae"]
        and masks["vertebrae"].voxel_count == 128
        and masks["vertebrae"].shape == (8, 8, 8)
    )


def test_numbers_too_large_for_a_list_are_found_all_the_same(tmp_path):
    labels = box(0, 4).astype(np.uint32) * 3 + box(4, 9).astype(np.uint32) * 614_454_277
    save(tmp_path / "atlas.nrrd", labels)
    masks = read(tmp_path).masks
    assert {organ: mask.voxel_count for organ, mask in masks.items()} == {"label_3": 64, "label_614454277": 125}


def test_every_unusable_file_and_organ_is_named(tmp_path):
    save(tmp_path / "liver.nii.gz", box(2, 9))
    save(tmp_path / "spleen.nii.gz", box(0, 0))
    save(tmp_path / "gallbladder.nii.gz", box(2, 3))
    save(tmp_path / "scan.nii.gz", box(2, 9).astype(np.float32) / 3)
    save(tmp_path / "aorta.nii.gz", box(2, 9, shape=(16, 14, 13)))
    (tmp_path / "heart.nii.gz").write_bytes(b"not an image")
    content = read(tmp_path)
    assert list(content.masks) == ["liver"]
    found = reasons(content)
    assert (
        found["spleen.nii.gz"] == "the mask is empty"
        and "not whole" in found["scan.nii.gz"]
        and "damaged" in found["heart.nii.gz"]
    )
    assert "(16, 14, 13) differs from (16, 14, 12)" in found["aorta.nii.gz"]
    assert found["ts s1: gallbladder"] == "1 voxels at 1.5 mm, fewer than 8"
    assert sorted(line.kind for line in content.rejected) == ["empty", "small", "unusable", "unusable", "unusable"]


def test_what_resampling_loses_is_named(tmp_path):
    labels = box(0, 8)
    labels[10, 10, 10] = 2
    save(tmp_path / "a.nii.gz", labels, 1.0)
    content = read(tmp_path, 2.5)
    assert list(content.masks) == ["label_1"] and reasons(content) == {
        "ts s1: label_2": "0 voxels at 2.5 mm, fewer than 8"
    }


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"liver": "one"}', "\x00"])
def test_labels_json_that_makes_no_sense_leaves_numbers(tmp_path, text):
    save(tmp_path / "a.nii.gz", box(0, 4) + box(4, 9, value=2))
    (tmp_path / "labels.json").write_text(text)
    content = read(tmp_path)
    assert (
        list(content.masks) == ["label_1", "label_2"]
        and "so labels are named by number" in reasons(content)["labels.json"]
    )


def test_memory_that_is_missing_costs_one_file(tmp_path, monkeypatch):
    save(tmp_path / "liver.nii.gz", box(2, 9))
    save(tmp_path / "spleen.nii.gz", box(2, 9))
    usual = organs.read_labels

    def hungry(path):
        if path.name == "spleen.nii.gz":
            raise MemoryError
        return usual(path)

    monkeypatch.setattr(organs, "read_labels", hungry)
    content = read(tmp_path)
    assert list(content.masks) == ["liver"] and "more memory" in reasons(content)["spleen.nii.gz"]


def test_one_subject_or_a_map_each(tmp_path):
    def folder(name, *volumes):
        return tuple(save(tmp_path / name / f"{i}.nii.gz", volume) for i, volume in enumerate(volumes))

    one = folder("one", box(0, 0), box(2, 9), box(1, 3, value=255))
    assert is_one_subject(one) and common_size(one) == (16, 14, 12)
    maps = folder("maps", box(0, 4) + box(4, 9, value=2), box(2, 9))
    assert not is_one_subject(maps)
    sizes = folder("sizes", *(box(2, 9, shape=(16, 14, 10 + i)) for i in range(3)))
    assert not is_one_subject(sizes) and common_size(sizes) is None
    (tmp_path / "one" / "0.nii.gz").write_bytes(b"not an image")
    assert is_one_subject(one)
