"""Label files of every layout become templates; what can't is named with its reason."""

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK

from pretraining.engine.sources import resample_nearest
from pretraining.engine.templates import TemplateBank, build_bank
from pretraining.errors import InputError


def save(path, array, spacing_mm=1.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array.T if array.ndim == 3 else array)
    image.SetSpacing([spacing_mm] * image.GetDimension())
    SimpleITK.WriteImage(image, str(path))


def box(low, high, shape=(16, 14, 12), value=1):
    volume = np.zeros(shape, dtype=np.uint8)
    volume[low:high, low:high, low:high] = value
    return volume


def organs(bank):
    return sorted((bank.entry(i).subject, bank.entry(i).organ) for i in range(len(bank)))


def test_totalsegmentator_folder(tmp_path):
    folder = tmp_path / "ts" / "s0001" / "segmentations"
    save(folder / "liver.nii.gz", box(2, 9))
    save(folder / "rib_left_1.nii.gz", box(0, 3))
    save(folder / "rib_right_12.nii.gz", box(6, 9))
    save(folder / "vertebrae_L1.nii.gz", box(3, 6))
    save(folder / "vertebrae_T12.nii.gz", box(8, 10))
    save(folder / "spleen.nii.gz", box(0, 0))
    (folder / "heart.nii.gz").write_bytes(b"not an image")
    report = build_bank([tmp_path / "ts"], tmp_path / "a.bank")
    bank = TemplateBank.open(tmp_path / "a.bank")
    assert organs(bank) == [("s0001", "liver"), ("s0001", "ribs"), ("s0001", "vertebrae")]
    ribs = next(i for i in range(3) if bank.entry(i).organ == "ribs")
    assert bank.shape(ribs) == (9, 9, 9) and bank.mask(ribs).sum() == 54
    assert bank.entry(ribs).source == "ts"
    assert report.template_count == 3 and report.templates_of_source == {"ts": 3}
    reasons = {what.rsplit("/", 1)[-1]: why for what, why in report.rejected}
    assert reasons["spleen.nii.gz"] == "the mask is empty" and "unreadable" in reasons["heart.nii.gz"]
    assert "3 templates" in str(report) and "spleen" in str(report)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_multilabel_map_with_and_without_names(tmp_path, suffix):
    labels = box(0, 4) + box(4, 8, value=7) + box(8, 12, value=9)
    save(tmp_path / "maps" / f"case1{suffix}", labels)
    build_bank([tmp_path / "maps"], tmp_path / "a.bank")
    assert [organ for _, organ in organs(TemplateBank.open(tmp_path / "a.bank"))] == ["label_1", "label_7", "label_9"]
    (tmp_path / "maps" / "labels.json").write_text(json.dumps({"aorta": 1, "vertebrae_L1": 7, "vertebrae_L2": 9}))
    build_bank([tmp_path / "maps" / f"case1{suffix}"], tmp_path / "b.bank")
    named = TemplateBank.open(tmp_path / "b.bank")
    assert organs(named) == [("case1", "aorta"), ("case1", "vertebrae")]
    assert np.array_equal(named.mask(0).numpy(), np.ones((4, 4, 4)))


def test_binary_masks_of_a_plain_folder_belong_to_one_subject(tmp_path):
    save(tmp_path / "patient" / "liver.nii.gz", box(2, 9))
    save(tmp_path / "patient" / "rib_left_1.nii.gz", box(0, 3))
    save(tmp_path / "patient" / "rib_left_2.nii.gz", box(9, 12, shape=(16, 14, 14)))
    report = build_bank([tmp_path / "patient"], tmp_path / "a.bank")
    assert organs(TemplateBank.open(tmp_path / "a.bank")) == [("patient", "liver"), ("patient", "ribs")]
    assert "differs" in report.rejected[0][1]


def test_axes_and_spacing(tmp_path):
    labels = np.zeros((20, 10, 8), dtype=np.uint8)
    labels[2:18, 3:7, 1:7] = 1
    image = SimpleITK.GetImageFromArray(labels.T)
    image.SetSpacing([1.5, 3.0, 0.75])
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii.gz"))
    build_bank([tmp_path / "a.nii.gz"], tmp_path / "a.bank")
    assert TemplateBank.open(tmp_path / "a.bank").shape(0) == (16, 8, 3)


def test_resampling_keeps_the_box_and_its_labels():
    labels = np.random.default_rng(0).integers(0, 5, (10, 7, 4))
    assert resample_nearest(labels, (1.0, 1.0, 1.0), 1.0) is labels
    doubled = resample_nearest(labels, (2.0, 2.0, 2.0), 1.0)
    assert np.array_equal(doubled, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert np.array_equal(resample_nearest(doubled, (1.0, 1.0, 1.0), 2.0), labels)
    assert resample_nearest(labels, (0.1, 1.0, 1.0), 5.0).shape == (1, 1, 1)


NOT_FINITE = np.ones((6, 6, 6), dtype=np.float32)
NOT_FINITE[2, 3, 4] = np.nan
FRACTIONS = np.linspace(0, 1, 216, dtype=np.float32).reshape(6, 6, 6)
HOUNSFIELD = np.full((6, 6, 6), -1000, dtype=np.int16)
FOUR_DIMENSIONS = np.ones((3, 6, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    "array, reason",
    [
        (NOT_FINITE, "NaN"),
        (FRACTIONS, "not whole"),
        (HOUNSFIELD, "negative"),
        (FOUR_DIMENSIONS, "three dimensions"),
        (box(0, 1), "fewer than 8"),
    ],
)
def test_a_single_unusable_source_is_an_error_of_one_line(tmp_path, array, reason):
    save(tmp_path / "x.nii.gz", array)
    with pytest.raises(InputError, match=reason) as error:
        build_bank([tmp_path / "x.nii.gz"], tmp_path / "out" / "a.bank")
    assert "\n" not in str(error.value) and not list((tmp_path / "out").iterdir())


def test_empty_and_missing_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no label files under"):
        build_bank([tmp_path / "empty"], tmp_path / "a.bank")
    with pytest.raises(InputError, match="no such template source"):
        build_bank([tmp_path / "missing"], tmp_path / "a.bank")
    with pytest.raises(InputError, match="is a folder"):
        build_bank([tmp_path / "empty"], tmp_path)
    assert not (tmp_path / "a.bank").exists()


def test_one_bad_file_among_many_and_two_processes(tmp_path):
    for case in range(3):
        save(tmp_path / "maps" / f"case{case}.nii.gz", box(0, 4) + box(4, 9, value=2))
    save(tmp_path / "maps" / "case1.nii.gz", NOT_FINITE)
    (tmp_path / "maps" / "LICENSE").write_text("CC BY 4.0\nmore\n")
    (tmp_path / "maps" / "labels.json").write_text("[1, 2]")
    report = build_bank([tmp_path / "maps"], tmp_path / "a.bank", processes=2)
    again = build_bank([tmp_path / "maps"], tmp_path / "b.bank")
    assert report == again and (tmp_path / "a.bank").read_bytes() == (tmp_path / "b.bank").read_bytes()
    assert report.template_count == 4 and any("NaN" in why for _, why in report.rejected)
    assert TemplateBank.open(tmp_path / "a.bank").entry(0).licence == "CC BY 4.0"


def test_real_multilabel_map(data_root, tmp_path):
    report = build_bank([data_root / "templates" / "head_neck" / "0522c0057_seg.nii.gz"], tmp_path / "a.bank")
    bank = TemplateBank.open(tmp_path / "a.bank")
    assert ("0522c0057_seg", "Brain") in organs(bank) and report.template_count >= 18
    brain = next(i for i in range(len(bank)) if bank.entry(i).organ == "Brain")
    assert all(60 < side < 140 for side in bank.shape(brain))


def test_real_totalsegmentator_subject_names_its_empty_masks(data_root, tmp_path):
    report = build_bank([data_root / "templates" / "totalsegmentator"], tmp_path / "a.bank")
    empty = [what for what, why in report.rejected if why == "the mask is empty"]
    assert len(empty) == len(report.rejected) == 9 and any(what.endswith("kidney_cyst_left.nii.gz") for what in empty)
    found = [organ for _, organ in organs(TemplateBank.open(tmp_path / "a.bank"))]
    assert found.count("ribs") == found.count("vertebrae") == 1 and not any(organ.startswith("rib_") for organ in found)


def test_banks_open_where_simpleitk_is_missing():
    modules = "pretraining.engine.synthesis, pretraining.samples.stream, pretraining.engine.shapes"
    subprocess.run([sys.executable, "-c", f"import sys; sys.modules['SimpleITK'] = None; import {modules}"], check=True)
