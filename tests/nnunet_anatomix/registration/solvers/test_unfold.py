"""Tests of the removal of folds."""

from __future__ import annotations

import torch

from nnunet_anatomix.registration.metrics import folded_share
from nnunet_anatomix.registration.solvers.unfold import unfold
from nnunet_anatomix.registration.warp import identity, jacobian_determinant

SHAPE = (30, 17, 15)


def test_folds_are_removed_and_voxels_away_from_them_stay():
    displacement = 0.5 * torch.sin(identity(SHAPE).flip(0) / 4)
    displacement[0, 6:8] += 6.0  # steps up and down by more than a voxel
    before = folded_share(displacement)
    found = unfold(displacement)
    assert before > 0.05 and folded_share(found) == 0
    torch.testing.assert_close(found[:, 16:], displacement[:, 16:], rtol=0, atol=0)
    assert (jacobian_determinant(found) > 0).all()


def test_what_does_not_fold_is_returned_as_it_is():
    displacement = torch.sin(identity(SHAPE) / 4)
    assert folded_share(displacement) == 0
    assert unfold(displacement) is displacement
    flat = torch.zeros(3, 1, 4, 4)
    assert unfold(flat) is flat
