"""Tests of what the benchmarks of registration measure, with transforms that are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.apply import move_labels
from nnunet_anatomix.registration.warp import invert, itk_transform
from pretraining.common.tables import write_csv
from tests.benchmarks import known_warps
from tests.benchmarks.known_warps import smooth_warp
from tests.benchmarks.label_propagation import group_table
from tests.benchmarks.pair_gate import gate_table, gated, move_rigidly, moved_by_mm, rigid_by_mutual_information
from tests.benchmarks.predicted_dice import correlations
from tests.benchmarks.registration_rows import Pair

SHAPE = (30, 28, 26)
SHIFT_MM = (6.0, -4.0, 2.0)


@pytest.fixture(scope="module")
def ball() -> sitk.Image:
    """Return an image of nested boxes in 3 mm voxels, values 0 to 3, with a turned grid."""
    here = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij"))
    radius = np.abs(here / np.array([0.9, 0.7, 0.8])[:, None, None, None]).max(0) + 0.3 * here[0] * here[1]
    levels = np.asarray(np.digitize(-radius, [-0.9, -0.6, -0.3]))
    image = sitk.GetImageFromArray(levels.transpose(2, 1, 0).astype(np.float32))
    image.SetSpacing([3.0] * 3)
    image.SetDirection(sitk.VersorTransform((0, 0, 1), 0.3).GetMatrix())
    return image


def pair_of(fixed: sitk.Image, moving: sitk.Image) -> Pair:
    labels = [sitk.Cast(image, sitk.sitkUInt8) for image in (fixed, moving)]
    return Pair(name="brain a-b", fixed=fixed, moving=moving, fixed_labels=labels[0], moving_labels=labels[1])


def shifted(image: sitk.Image) -> sitk.Image:
    """The same voxels elsewhere in space."""
    moved = sitk.Image(image)
    moved.SetOrigin(np.add(image.GetOrigin(), SHIFT_MM))
    return moved


def found(pair: Pair, forward: sitk.Transform) -> SimpleNamespace:
    """A registration that found this transform."""
    return SimpleNamespace(
        forward=forward,
        apply_labels=lambda labels: move_labels(labels, pair.fixed, forward),
        displacement=torch.zeros(3, *SHAPE),
        known=torch.ones(SHAPE),
    )


@pytest.mark.parametrize("is_undone", [True, False])
def test_the_score_of_a_warp_leaves_out_the_misalignment_of_the_pair(ball, monkeypatch, is_undone):
    pair = pair_of(ball, shifted(ball))
    own = sitk.TranslationTransform(3, SHIFT_MM)
    undoing = itk_transform(invert(smooth_warp(pair.moving, 0)), pair.moving)
    answer = sitk.CompositeTransform([undoing, own]) if is_undone else own
    monkeypatch.setattr(known_warps, "register_pair", lambda bent, method, weights: found(bent, answer))
    row = known_warps.score(pair, 0, found(pair, own), "mind", "")
    assert row["own_mm"] == pytest.approx(np.linalg.norm(SHIFT_MM), abs=1e-3)
    assert row["error_before_mm"] > 2
    if is_undone:
        assert row["error_mm"] < 0.15 and row["dice"] > 0.97 > row["dice_before"]
    else:
        assert row["error_mm"] == row["error_before_mm"] and row["dice"] == row["dice_before"]


def test_a_pair_is_moved_by_its_headers(ball):
    turn = sitk.Euler3DTransform((40.0, 30.0, 20.0), 0.1, -0.2, 0.3, (4.0, 5.0, -6.0))
    elsewhere = sitk.Image(ball)
    elsewhere.SetOrigin(turn.TransformPoint(ball.GetOrigin()))
    elsewhere.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(ball.GetDirection(), (3, 3))).ravel())
    back = move_rigidly(pair_of(ball, elsewhere), turn)
    for image in (back.moving, back.moving_labels):
        assert np.allclose(image.GetOrigin(), ball.GetOrigin()) and np.allclose(
            image.GetDirection(), ball.GetDirection()
        )
    assert np.array_equal(sitk.GetArrayFromImage(back.moving), sitk.GetArrayFromImage(elsewhere))


def test_the_gate_moves_misaligned_pairs_alone_and_measures_once(ball, tmp_path, monkeypatch):
    apart = pair_of(ball, shifted(ball))
    rigid = rigid_by_mutual_information(apart)
    assert moved_by_mm(apart, rigid) == pytest.approx(np.linalg.norm(SHIFT_MM), abs=0.3)
    asked: list[Pair] = []

    def mind_mm(pair: Pair) -> float:
        asked.append(pair)
        return 0.25

    monkeypatch.setattr("tests.benchmarks.pair_gate.mind_mm", mind_mm)
    out = tmp_path / "gate.csv"
    aligned = gated(apart, out)
    assert np.allclose(aligned.moving.GetOrigin(), ball.GetOrigin(), atol=0.5) and len(asked) == 2
    assert gated(apart, out).moving.GetOrigin() == pytest.approx(aligned.moving.GetOrigin(), abs=1e-4)
    assert len(asked) == 2 and "brain a-b" in gate_table(out)
    monkeypatch.setattr("tests.benchmarks.pair_gate.rigid_by_mutual_information", lambda pair: sitk.Euler3DTransform())
    there = gated(pair_of(ball, ball), tmp_path / "other.csv")
    assert there.moving.GetOrigin() == ball.GetOrigin()


def test_groups_are_averaged_over_pairs_that_all_methods_have():
    rows = [
        {"pair": pair, "method": method, "weights": "", "dice_start": before, "dice": dice, "folded_percent": "0"}
        for pair, method, before, dice in (
            ("head a", "mind", "0.2", "0.6"),
            ("head b", "mind", "0.6", "0.8"),
            ("head c", "mind", "0", "0"),
            ("head a", "greedy", "0.2", "0.7"),
            ("head b", "greedy", "0.6", "0.7"),
        )
    ]
    assert "head (2) | 0.400  | 0.700 / 0.00 | 0.700 / 0.00" in group_table(rows)


def test_what_predicts_the_dice_correlates_with_it(tmp_path):
    dice = {"a": 0.9, "b": 0.7, "c": 0.5}
    write_csv(
        tmp_path / "propagation.csv",
        ["case", "difference", "agreement"],
        [[case, 1 - value, random] for (case, value), random in zip(dice.items(), (0.5, 0.8, 0.5), strict=True)],
    )
    rows = [
        [case, label, value + shift] for case, value in dice.items() for label, shift in (("l", 0.05), ("r", -0.05))
    ]
    write_csv(tmp_path / "cases.csv", ["case", "label", "dice"], rows)
    found = correlations(tmp_path, tmp_path)
    assert found["difference"] == pytest.approx(-1) and found["agreement"] == pytest.approx(0, abs=1e-6)
