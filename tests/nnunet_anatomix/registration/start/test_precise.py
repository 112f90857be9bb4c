"""Tests of rigid and affine registrations as ends in themselves: known moves of T1 against T2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.start.precise import refine_by_information

MIND = DescriptorConfig(feature_weight=0)


@pytest.fixture(scope="module")
def brains(data_root) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """Return T1, T2 and labels."""
    folder = data_root / "registration" / "mni_multimodal"
    names = ("t1", "t2", "labels_neuromorphometrics")
    t1, t2, labels = (sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in names)
    return sitk.Cast(t1, sitk.sitkFloat32), sitk.Cast(t2, sitk.sitkFloat32), labels


def rigid_move(scan: sitk.Image, degrees: float, shift_mm: tuple[float, float, float]) -> sitk.VersorRigid3DTransform:
    """Return a rotation about the middle of a scan, and a shift."""
    middle = scan.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in scan.GetSize()])
    return sitk.VersorRigid3DTransform((0.6, -0.64, 0.48), math.radians(degrees), shift_mm, middle)


def mean_error_mm(labels: sitk.Image, found: sitk.Transform, truth: sitk.Transform) -> float:
    """Compute the mean distance over some voxels of the brain, mm."""
    voxels = np.argwhere(sitk.GetArrayViewFromImage(labels) > 0)[::1999, ::-1].tolist()
    points = [labels.TransformIndexToPhysicalPoint(voxel) for voxel in voxels]
    return float(np.mean([math.dist(found.TransformPoint(point), truth.TransformPoint(point)) for point in points]))


@pytest.mark.parametrize("stage", ["rigid", pytest.param("affine", marks=pytest.mark.slow)])
def test_a_known_rigid_move_is_found_to_half_a_millimetre(brains, stage):
    t1, t2, labels = brains
    truth = rigid_move(t1, 10, (7.0, -6.0, 8.0))
    moving = sitk.Resample(t2, t2, truth.GetInverse())
    config = RegistrationConfig(solver="none", affine=stage, descriptors=MIND)
    found = register(t1, moving, config=config)
    assert mean_error_mm(labels, sitk.Transform(), truth) > 12
    assert mean_error_mm(labels, found.forward, truth) < (0.55 if stage == "rigid" else 1.0)
    assert found.settings["method"] == f"linear-{stage}" and found.settings["solver"] is None
    assert not torch.any(found.displacement)
    matrix = np.array(found.start.transform.GetMatrix()).reshape(3, 3)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6) == (stage == "rigid")


def test_the_last_level_keeps_a_start_that_it_cannot_improve(brains):
    t1, _, _ = brains
    start = rigid_move(t1, 0, (0.0, 0.0, 0.0))
    empty = sitk.Image(t1.GetSize(), sitk.sitkUInt8)
    empty.CopyInformation(t1)
    assert refine_by_information(t1, t1, start, "rigid", masks=(empty, None)) is start
