"""Speed of the automatic start against the exhaustive way, in one run.

The exhaustive way optimizes every start rigidly and then by affine transforms, at half and at full
resolution, with 40 steps each. It is what the automatic start was at first.
"""

from __future__ import annotations

import logging
import time

import pytest
import SimpleITK as sitk

from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.start import initial
from nnunet_anatomix.registration.start.affine import NO_OVERLAP, agreement, greatest_distance, halve, optimize
from nnunet_anatomix.registration.start.initial import Described, Scored, Start, best_start
from tests.benchmarks.label_propagation import GROUPS
from tests.benchmarks.registration_rows import Pair
from tests.nnunet_anatomix.registration.start.test_precise import rigid_move

log = logging.getLogger(__name__)


def align_exhaustively(starts: dict[str, Scored], scans: Described, stage: str) -> dict[str, Scored]:
    """Optimize all starts at both resolutions, in place of the product's way at half of it."""
    halves = (halve(scans[0]), halve(scans[1]))
    found = {}
    for name, (score, start) in starts.items():
        transform = start
        for affine in (False, True):
            for level in (halves, scans):
                transform = optimize(*level, transform, initial._COARSE, affine=affine)
        found[name] = max((score, start), (agreement(*scans, transform), transform), key=lambda scored: scored[0])
    return found


def exhaustive_start(pair: Pair) -> tuple[Start, Described]:
    """Return the best start of all, and the scans' descriptors."""
    seen: list[Described] = []

    def aligned(starts: dict[str, Scored], scans: Described, stage: str) -> dict[str, Scored]:
        seen.append(scans)
        return align_exhaustively(starts, scans, stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initial, "_aligned", aligned)
        patch.setattr(initial, "_LEAST_SIDE", 10**6)  # align at full resolution
        patch.setattr(initial, "_FINE", initial.Descent(iterations=0, rate=0.0))
        return start_of(pair), seen[0]


def start_of(pair: Pair) -> Start:
    fixed, moving = (sitk.Cast(image, sitk.sitkFloat32) for image in (pair.fixed, pair.moving))
    clips = (pair.clips.get("fixed_clip"), pair.clips.get("moving_clip"))
    return best_start(fixed, moving, DescriptorConfig(feature_weight=0), net=None, clips=clips)


@pytest.fixture(scope="module")
def pairs(data_root) -> list[Pair]:
    """Hippocampi, fetal brains and abdomens of two people, and T1 with a moved T2."""
    folder = data_root / "registration" / "mni_multimodal"
    t1, t2 = (sitk.ReadImage(str(folder / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("t1", "t2"))
    turned = sitk.Resample(t2, t2, rigid_move(t1, 10, (7.0, -6.0, 8.0)).GetInverse())
    brain = Pair(name="brain", fixed=t1, moving=turned, fixed_labels=t1, moving_labels=turned)
    return [*(next(GROUPS[group](data_root)) for group in ("hippocampus", "fetal", "abdomen")), brain]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_start_is_three_times_as_fast_as_the_exhaustive_one_and_agrees_as_well(pairs):
    exhaustive_start(pairs[0])  # compiles
    seconds = {"ours": 0.0, "exhaustive": 0.0}
    for pair in pairs:
        begin = time.process_time()
        slow, scans = exhaustive_start(pair)
        middle = time.process_time()
        ours = start_of(pair)
        end = time.process_time()
        seconds["exhaustive"] += middle - begin
        seconds["ours"] += end - middle
        log.warning(
            "%s: ours %.2f s, exhaustive %.2f s, ratio %.2f; agreement %.4f and %.4f, corners %.1f voxels apart",
            pair.name,
            end - middle,
            middle - begin,
            (middle - begin) / (end - middle),
            ours.agreement,
            slow.agreement,
            greatest_distance(*scans, ours.transform, slow.transform),
        )
        assert slow.agreement > NO_OVERLAP and ours.agreement > slow.agreement - 0.01
    assert seconds["exhaustive"] > 3 * seconds["ours"]
