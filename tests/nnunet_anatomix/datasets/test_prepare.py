"""Tests of prepare: raw datasets with the parts of Table 8, and one line for each error."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.cli import main
from nnunet_anatomix.commands.prepare import prepare
from nnunet_anatomix.datasets import mm_whs, raw_dataset
from nnunet_anatomix.datasets.catalog import SEGMENTATION
from nnunet_anatomix.finetuning.dataset import check_cases, find_dataset
from nnunet_anatomix.finetuning.splits import draw_folds, training_pool
from nnunet_anatomix.registration.atlas import align as alignment
from nnunet_anatomix.registration.batch import read_pairs
from nnunet_anatomix.registration.start.initial import Start
from nnunet_anatomix.registration.tuning.pairs import read_search_pairs
from pretraining.common.errors import InputError
from tests.nnunet_anatomix.datasets.downloads import download, empty_download, labels, placed, scan, stamp, write

TABLE_8 = {
    # files of the public release; training, validation, test and fine-tuning volumes; structures
    "msd-heart": (20, (6, 10, 4), 1, 1),
    "l2r-abdomen": (48, (24, 12, 12), 3, 4),
    "feta": (80, (40, 20, 20), 3, 7),
    "neurite-oasis": (414, (314, 50, 50), 1, 35),
}


@pytest.mark.parametrize("key", TABLE_8)
def test_parts_are_those_of_table_8(tmp_path, key):
    count, expected, shots, structures = TABLE_8[key]
    dataset = SEGMENTATION[key]
    parts = dataset.find(empty_download(tmp_path, key, count), False)
    named = [{case.name for case in part} for part in (parts.training, parts.validation, parts.test)]
    assert tuple(map(len, named)) == expected and len(set.union(*named)) == count, "no case is in two parts"
    assert (dataset.shots[0], len(dataset.labels)) == (shots, structures)
    assert parts == dataset.find(tmp_path, False), "and always the same"


def test_promise12_keeps_its_public_parts(tmp_path):
    empty_download(tmp_path, "promise12", 20)
    for number in range(20, 50):
        for part, last in (("training_data", 50), ("test_data", 30)):
            if number < last:
                for ending in ("", "_segmentation"):
                    (tmp_path / part / f"Case{number}{ending}.mhd").touch()
    parts = SEGMENTATION["promise12"].find(tmp_path, False)
    assert (len(parts.training), len(parts.validation), len(parts.test)) == (50, 20, 30)
    assert {case.name.split("_")[0] for case in parts.validation} == {"livechallenge"}
    assert {case.name.split("_")[0] for case in parts.test} == {"test"}


def test_amos_takes_ct_alone_and_tests_on_the_public_validation(tmp_path):
    for part, scans in (("Tr", [*range(1, 201), *range(507, 547)]), ("Va", [*range(201, 301), *range(547, 567)])):
        for kind in ("images", "labels"):
            (tmp_path / f"{kind}{part}").mkdir()
            for number in scans:
                (tmp_path / f"{kind}{part}" / f"amos_{number:04d}.nii.gz").touch()
    parts = SEGMENTATION["amos-ct"].find(tmp_path, False)
    assert (len(parts.training), len(parts.validation), len(parts.test)) == (180, 20, 100)
    assert all(int(case.name[5:]) <= 300 for case in [*parts.training, *parts.validation, *parts.test])
    assert {int(case.name[5:]) for case in parts.test} == set(range(201, 301))
    assert SEGMENTATION["amos-ct"].shots == (3, 1)


COUNTS = {"msd-heart": 6, "promise12": 2, "l2r-abdomen": 5, "feta": 5, "amos-ct": 4, "neurite-oasis": 4}


@pytest.mark.parametrize("key", COUNTS)
def test_a_prepared_dataset_is_one_that_nnunet_takes(nnunet, tmp_path, key):
    dataset = SEGMENTATION[key]
    source = download(tmp_path / "download", key, COUNTS[key], values=tuple(range(len(dataset.labels) + 1)))
    before = stamp(source)
    prepare(key, source, nnunet.raw, shots=1, partial=True)
    assert stamp(source) == before, "nothing is written into the download"
    raw = find_dataset(dataset.folder)
    check_cases(raw)
    folds = json.loads((raw.folder / "splits_final.json").read_text())
    few, full = (set(fold["train"]) for fold in folds)
    validation = set(folds[0]["val"])
    assert len(few) == 1 and few <= full and not full & validation and full | validation == set(raw.cases)
    assert few == set(draw_folds(sorted(full), 1, seed=0)[0]["train"]), "as a study's seed 0"
    assert training_pool(raw.folder, list(raw.cases)) == sorted(full)
    tests = {path.name.removesuffix(".nii.gz") for path in (raw.folder / "labelsTs").iterdir()}
    assert tests and tests == {path.name.removesuffix("_0000.nii.gz") for path in (raw.folder / "imagesTs").iterdir()}
    assert raw.description["channel_names"]["0"] == ("CT" if key == "amos-ct" else "MRI")
    image = sitk.ReadImage(str(raw.folder / "imagesTs" / f"{min(tests)}_0000.nii.gz"))
    assert image.GetSpacing() == pytest.approx((1.0, 1.25, 2.0)) and image.GetOrigin() == pytest.approx(
        (-7.0, 3.0, 11.0)
    )


def test_a_killed_preparation_goes_on_and_a_finished_one_is_not_done_again(tmp_path, monkeypatch):
    source, out = download(tmp_path / "download", "msd-heart", 6), tmp_path / "raw"
    convert, seen = raw_dataset.convert_case, []

    def dies(case, *rest):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(case.name)
        convert(case, *rest)

    monkeypatch.setattr(raw_dataset, "convert_case", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare("msd-heart", source, out, partial=True)
    folder = out / "Dataset701_MSDHeart"
    assert not (folder / "dataset.json").exists(), "what is not complete does not look so"
    there = stamp(folder)
    monkeypatch.setattr(raw_dataset, "convert_case", convert)
    prepare("msd-heart", source, out, partial=True)
    after = stamp(folder)
    assert there.items() <= after.items() and len(after) > len(there)
    prepare("msd-heart", source, out, partial=True)
    images = {name: value for name, value in stamp(folder).items() if name.endswith(".nii.gz")}
    assert images.items() <= after.items()


def test_another_preparation_does_not_overwrite_one(tmp_path):
    source, out = download(tmp_path / "download", "amos-ct", 4), tmp_path / "raw"
    prepare("amos-ct", source, out, shots=1, partial=True)
    before = stamp(out)
    with pytest.raises(InputError, match=r"another preparation \(different shots.*--out"):
        prepare("amos-ct", source, out, shots=3, partial=True)
    write(source / "imagesTr" / "amos_0001.nii.gz", scan(9, (14, 10, 9)))
    with pytest.raises(InputError, match=r"another preparation \(different files"):
        prepare("amos-ct", source, out, shots=1, partial=True)
    (tmp_path / "taken" / "Dataset705_AMOSCT").mkdir(parents=True)
    (tmp_path / "taken" / "Dataset705_AMOSCT" / "notes.txt").touch()
    with pytest.raises(InputError, match="not prepared by this command"):
        prepare("amos-ct", source, tmp_path / "taken", partial=True)
    assert stamp(out) == before


def _missing_label(source):
    (source / "labelsTr" / "la_002.nii.gz").unlink()


def _missing_image(source):
    (source / "imagesTr" / "la_003.nii.gz").unlink()


def _other_value(source):
    write(source / "labelsTr" / "la_001.nii.gz", labels((0, 1, 7)))


def _fractions(source):
    write(source / "labelsTr" / "la_001.nii.gz", sitk.Cast(labels((0, 1)), sitk.sitkFloat32) * 0.5)


def _other_size(source):
    write(source / "labelsTr" / "la_001.nii.gz", labels((0, 1), (12, 10, 8)))


def _other_place(source):
    label = labels((0, 1))
    label.SetOrigin((50.0, 3.0, 11.0))
    write(source / "labelsTr" / "la_001.nii.gz", label)


def _four_dimensional(source):
    write(source / "imagesTr" / "la_001.nii.gz", sitk.JoinSeries([scan(0), scan(1)]))


def _constant(source):
    write(source / "imagesTr" / "la_001.nii.gz", placed(np.zeros((9, 10, 12), np.int16)))


def _cut_off(source):
    path = source / "imagesTr" / "la_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])


def _no_labels_folder(source):
    (source / "labelsTr").rename(source / "labels")


BAD = [
    (_missing_label, "1 scans have no label.*la_002"),
    (_missing_image, "1 labels have no scan.*la_003"),
    (_other_value, r"la_001.*expected the values .*found \['7'\]"),
    (_fractions, r"la_001.*expected the values .*found \['0.5'\]"),
    (_other_size, r"la_001.*expected labels of \(12, 10, 9\) voxels, as the scan has"),
    (_other_place, "la_001.*same grid as the scan, found a header 57.0 voxels off"),
    (_four_dimensional, r"la_001.*4D: 2 volumes in one file"),
    (_constant, "la_001.*constant"),
    (_cut_off, "la_001"),
    (_no_labels_folder, r"expected a folder labelsTr in .*found \['imagesTr', 'labels'\]"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[spoil.__name__.strip("_") for spoil, _ in BAD])
def test_what_is_wrong_with_a_download_is_named(tmp_path, spoil, message):
    source = download(tmp_path / "download", "msd-heart", 6)
    spoil(source)
    with pytest.raises(InputError, match=message) as raised:
        prepare("msd-heart", source, tmp_path / "raw", partial=True)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "raw" / "Dataset701_MSDHeart" / "dataset.json").exists()


def test_rounded_headers_are_taken_for_the_scans_and_hidden_files_for_nothing(tmp_path):
    source = download(tmp_path / "download", "msd-heart", 6)
    label = labels((0, 1))
    label.SetOrigin((-7.0, 3.4, 11.0))
    write(source / "labelsTr" / "la_001.nii.gz", label)
    (source / "imagesTr" / "._la_001.nii.gz").write_bytes(b"of macOS")
    prepare("msd-heart", source, tmp_path / "raw", partial=True)
    written = next((tmp_path / "raw").rglob("la_001.nii.gz"))
    assert sitk.ReadImage(str(written)).GetOrigin() == pytest.approx((-7.0, 3.0, 11.0))


@pytest.mark.parametrize(("changes", "message"), [
    ({"partial": False}, r"expected 20 labelled scans, found 6.*--partial"),
    ({"shots": 9}, "--shots: expected 1 to 2"),
    ({"source": "nowhere"}, "expected the folder of a download"),
    ({"out": "download/raw"}, "expected a folder outside the download"),
])  # fmt: skip
def test_wishes_that_cannot_be_met_are_refused(tmp_path, changes, message):
    download(tmp_path / "download", "msd-heart", 6)
    wishes = {"partial": True, "source": "download", "out": "raw"} | changes
    with pytest.raises(InputError, match=message):
        prepare(
            "msd-heart",
            tmp_path / wishes["source"],
            tmp_path / wishes["out"],
            shots=wishes.get("shots"),
            partial=wishes["partial"],
        )
    assert not (tmp_path / "raw" / "Dataset701_MSDHeart").exists()


def test_the_command_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["nnunet-anatomix", "prepare", "feta", "--source", str(tmp_path), "--out", str(tmp_path / "raw")]
    )
    with pytest.raises(SystemExit, match=r"^nnunet-anatomix: FeTA: expected 80 subjects .* found 0") as stop:
        main()
    assert "\n" not in str(stop.value.code)


def test_pairs_of_the_abdomen_are_ct_and_mri_of_one_number(tmp_path):
    source = download(tmp_path / "download", "l2r-abdomen", 5, values=(0, 1, 2, 3, 4))
    (source / "labelsTr" / "AbdomenMRCT_0004_0001.nii.gz").unlink()  # no longer a pair, but still an MRI
    prepare("l2r-abdomen", source, tmp_path / "raw", partial=True)
    folder = tmp_path / "raw" / "Registration_L2RAbdomenMRCT"
    parts = [read_pairs(folder / f"{part}.csv") for part in ("validation", "test")]
    assert [len(part) for part in parts] == [1, 3] and len(read_search_pairs(folder / "validation.csv")) == 1
    for pair in [*parts[0], *parts[1]]:
        assert pair.fixed.name == f"{pair.name}_0001.nii.gz" and pair.moving.name == f"{pair.name}_0000.nii.gz"
        assert all(
            path.is_file() for path in (pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels, pair.fixed_mask)
        )
    assert json.loads((folder / "pairs.json").read_text())["fixed_clip"] == [-450, 450]
    assert len(find_cases(tmp_path / "raw" / "Dataset703_L2RAbdomenMRI")) == 5


def find_cases(folder):
    return [*folder.glob("imagesT?/*.nii.gz")]


def test_the_papers_grid_lies_about_the_first_heart():
    ct = scan(0, (40, 44, 36))
    grid = mm_whs.reference_grid(sitk.Cast(ct, sitk.sitkFloat32))
    assert grid.GetSize() == (160, 160, 128) and grid.GetSpacing() == pytest.approx((1.142, 1.142, 1.283))
    centres = [
        image.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in image.GetSize()])
        for image in (ct, grid)
    ]
    assert centres[0] == pytest.approx(centres[1])


def test_hearts_are_brought_to_one_grid_and_paired(tmp_path, monkeypatch):
    monkeypatch.setattr(mm_whs, "_SIZE", (24, 22, 20))
    monkeypatch.setattr(mm_whs, "_SPACING_MM", (1.5, 1.5, 2.0))
    # Alignment has its own tests, and these scans are aligned by their headers.
    header = Start(name="header", transform=sitk.AffineTransform(3), agreement=1.0, rivals={})
    monkeypatch.setattr(alignment, "best_start", lambda *scans, **options: header)
    values = tuple(sorted(set(mm_whs.VALUES) - {421}))
    source = download(tmp_path / "download", "mm-whs", 2, values=values, sides=(20, 18, 14))
    before = stamp(source)
    prepare("mm-whs", source, tmp_path / "raw", partial=True, weights="none", device="cpu")
    assert stamp(source) == before, "nothing is written into the download"
    folder = tmp_path / "raw" / "Registration_MMWHS"
    (pair,) = read_pairs(folder / "test.csv")
    assert pair.name == "mr_train_1002_on_ct_train_1002"
    fixed, moving, labels, mask = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        for path in (pair.fixed, pair.moving, pair.fixed_labels, pair.fixed_mask)
    )
    assert fixed.shape == moving.shape == labels.shape == mask.shape == (20, 22, 24)
    assert set(np.unique(labels)) <= set(range(8)) and labels.any(), "labels are 1 to 7"
    assert 0 < mask.mean() < 1, "the scan does not reach all of the grid, and the mask says where it does"
    assert not labels[mask == 0].any()
    there = stamp(folder / "aligned")
    prepare("mm-whs", source, tmp_path / "raw", partial=True, weights="none", device="cpu")
    assert stamp(folder / "aligned") == there, "nothing is aligned twice"
