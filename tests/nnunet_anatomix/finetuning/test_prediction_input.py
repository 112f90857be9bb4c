"""Scans of ``nnUNetv2_predict`` are checked before nnU-Net makes background of a NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.finetuning.nnunet_guard import StoppedByInput
from nnunet_anatomix.finetuning.prediction_input import check_prediction_input
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer
from pretraining.common.errors import InputError


@pytest.fixture
def scans(tmp_path) -> Path:
    """Return a folder of four cases, of which the third has a NaN."""
    for case in "abcd":
        voxels = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
        if case == "c":
            voxels[1, 2, 3] = np.nan
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / f"{case}_0000.nii.gz"))
    return tmp_path


def test_itk_reads_nan_of_nifti_as_0(scans):
    """If this fails, the check may be needless."""
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(scans / "c_0000.nii.gz")))[1, 2, 3] == 0


@pytest.mark.parametrize("program", ["/bin/nnUNetv2_predict", "nnUNetv2_predict_from_modelfolder"])
def test_a_scan_with_nan_is_named_before_prediction(scans, program, monkeypatch):
    command = [program, "-i", str(scans), "-o", "out", "-d", "901", "-p", "somePlans", "-f", "all"]
    with pytest.raises(InputError, match=r"c_0000\.nii\.gz: 1 voxel is NaN on disk"):
        check_prediction_input(command)
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(StoppedByInput, match="1 voxel is NaN"):
        AnatomixTrainer.build_network_architecture(None, None, 1, 2)


def test_a_flag_may_be_joined_to_its_value(scans):
    with pytest.raises(InputError, match="NaN"):
        check_prediction_input(["nnUNetv2_predict", "-p", "somePlans", f"-i={scans}"])


def test_only_the_scans_of_this_part_are_checked(scans):
    part = ["nnUNetv2_predict", "-i", str(scans), "-num_parts", "2", "-part_id"]
    check_prediction_input([*part, "1"])
    with pytest.raises(InputError, match="NaN"):
        check_prediction_input([*part, "0"])


@pytest.mark.parametrize(
    "command", [[], ["nnUNetv2_train", "-i", "{}"], ["nnUNetv2_predict", "-o", "{}"], ["nnUNetv2_predict", "-i"]]
)
def test_other_commands_are_left_alone(scans, command):
    check_prediction_input([word.format(scans) for word in command])


def test_files_of_macos_are_named(scans):
    (scans / "c_0000.nii.gz").unlink()
    (scans / "._a_0000.nii.gz").write_bytes(b"notes")
    with pytest.raises(InputError, match=r"\._a_0000\.nii\.gz is not a scan"):
        check_prediction_input(["nnUNetv2_predict", "-i", str(scans)])
