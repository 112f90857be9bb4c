"""Test that voxels are drawn in the anatomy, and match only at the same location."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from pretraining.common.errors import InputError
from pretraining.probing.aligned import LIMB_SPACING_MM, NEAR_MM, read_aligned_images, read_brain, read_limbs
from tests.pretraining.probing.aligned_folders import brain_folder, limbs_folder, write_image


def test_voxels_of_the_brain_are_the_same_place_in_the_same_region(tmp_path):
    regions = torch.from_numpy(brain_folder(tmp_path)).flatten()
    brain = read_brain(tmp_path, ("t2",), count=300)
    there = regions[brain.voxels]
    assert (there > 0).all() and len(brain.voxels.unique()) == 300
    assert torch.equal(brain.same, there[:, None] == there)
    assert brain.images.keys() == {"t1", "t2"} and brain.images["t1"].shape == (13, 14, 12)


def test_only_ct_is_kept_from_choosing(tmp_path):
    brain_folder(tmp_path)
    assert [(pair.first, pair.second, pair.for_choosing) for pair in read_brain(tmp_path).modality_pairs] == [
        ("t1", "t2", True),
        ("t1", "pd", True),
        ("t1", "ct", False),
    ]


def test_drawing_depends_on_the_seed_alone(tmp_path):
    brain_folder(tmp_path)
    one, again, other = (read_brain(tmp_path, ("t2",), count=100, seed=seed).voxels for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_small_brain_gives_all_its_voxels(tmp_path):
    regions = brain_folder(tmp_path)
    assert len(read_brain(tmp_path, ("t2",), count=10**6).voxels) == (regions > 0).sum()


def test_voxels_of_a_limb_lie_in_tissue_that_both_see_and_are_the_same_place_within_10_mm(tmp_path):
    limbs_folder(tmp_path)
    (limb,) = read_limbs(tmp_path, count=500)
    shape = limb.images["ct"].shape
    assert shape == (24, 24, 24)  # 12 slices of 3 mm at 1.5 mm
    places = np.stack(np.unravel_index(limb.voxels.numpy(), shape), axis=1)
    # Tissue ends with slice 8 in the MR and with rows 6 to 17 in both; linear resampling may reach
    # one voxel further.
    assert places.min(axis=0).tolist() >= [0, 5, 5] and places[:, 0].max() <= 18 and places[:, 1:].max() <= 18
    distances_mm = np.linalg.norm((places[:, None] - places) * LIMB_SPACING_MM, axis=2)
    clear = abs(distances_mm - NEAR_MM) > 1e-3
    assert np.array_equal(limb.same.numpy()[clear], (distances_mm <= NEAR_MM)[clear])
    assert [(pair.first, pair.second, pair.for_choosing) for pair in limb.modality_pairs] == [("t1", "ct", False)]


def test_ct_is_clipped(tmp_path):
    limbs_folder(tmp_path)
    (limb,) = read_limbs(tmp_path)
    assert limb.images["ct"].min() == -450


def test_all_that_is_there_is_found_from_any_folder(tmp_path):
    brain, limbs = tmp_path / "registration" / "mni_multimodal", tmp_path / "nnUNet_raw" / "Dataset903_LimbSarcoma"
    brain_folder(brain)
    limbs_folder(limbs, cases=("a", "b"))

    def found(folder):
        return [subject.subject for subject in read_aligned_images(folder, count=50)]

    assert found(tmp_path) == ["template", "a", "b"]
    assert found(brain) == found(tmp_path / "registration") == ["template"]
    assert found(limbs) == found(tmp_path / "nnUNet_raw") == ["a", "b"]


def test_modalities_that_are_missing_are_left_out(tmp_path):
    brain_folder(tmp_path, modalities=("pd",))
    (brain,) = read_aligned_images(tmp_path, count=50)
    assert [pair.second for pair in brain.modality_pairs] == ["pd"]


def other_grid(folder):
    brain_folder(folder)
    write_image(folder / "t2.nii.gz", np.zeros((5, 6, 7), np.float32))


def no_labels(folder):
    brain_folder(folder)
    (folder / "labels_neuromorphometrics.nii.gz").unlink()


def one_modality(folder):
    brain_folder(folder, modalities=())


def damaged(folder):
    brain_folder(folder)
    path = folder / "pd.nii.gz"
    path.write_bytes(path.read_bytes()[:100])


def four_dimensions(folder):
    brain_folder(folder)
    sitk.WriteImage(sitk.Image((5, 6, 7, 2), sitk.sitkFloat32), str(folder / "ct.nii.gz"))


def vectors(folder):
    brain_folder(folder)
    sitk.WriteImage(sitk.Image((16, 20, 18), sitk.sitkVectorFloat32, 2), str(folder / "ct.nii.gz"))


def other_channels(folder):
    limbs_folder(folder, channels=("T2", "T1"))


def no_images(folder):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT", "1": "T1"}, "file_ending": ".nii.gz"})
    )


def no_common_tissue(folder):
    limbs_folder(folder)
    write_image(folder / "imagesTr" / "a_0000.nii.gz", np.full((12, 24, 24), -1000, np.int16))


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: None, "name the folder"),
        (other_grid, "expected one grid"),
        (no_labels, "no such file"),
        (one_modality, "add one"),
        (damaged, "truncated"),
        (four_dimensions, "expected three"),
        (vectors, "values per voxel"),
        (other_channels, "expected CT and one other"),
        (no_images, "expected files CASE_0000.nii.gz"),
        (no_common_tissue, "expected a CT in HU"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(tmp_path, prepare, said):
    prepare(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        list(read_aligned_images(tmp_path, count=50))
    assert "\n" not in str(caught.value)


def test_the_real_brain_has_its_regions(data_root):
    brain = read_brain(data_root / "registration" / "mni_multimodal", ("t2", "pd"))
    assert len(brain.voxels) == 4000 and {image.shape for image in brain.images.values()} == {brain.images["t1"].shape}
    assert 0.03 < brain.same.float().mean() < 0.1
