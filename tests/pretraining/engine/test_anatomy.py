"""Real label maps: organs of a subject keep their relative positions and are deformed together."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from pretraining.common.errors import InputError
from pretraining.common.random import sample_generator
from pretraining.engine import anatomy
from pretraining.engine.anatomy import AnatomyConfig, displace, eligible_subjects, render_anatomy, sample_anatomy
from pretraining.engine.fields import sample_smooth_noise, smooth_noise
from pretraining.templates.procedural import procedural_bank
from tests.oracles.label_ensemble import mapped_coordinates, near_a_border
from tests.pretraining.engine.subjects import bank_of_subjects, body, painted

SHAPE = (80, 64, 72)
STILL = AnatomyConfig(scale=(1.0, 1.0), max_rotation_deg=0.0, max_shear=0.0, max_warp_std_vox=0.0)


@pytest.fixture(scope="module")
def bank():
    return bank_of_subjects(
        {
            ("brains/one", "a"): body(6),
            ("brains/one", "b"): body(9, seed=1),
            ("torsos", "a"): body(5, seed=2),
            ("shapes", "0"): body(1, seed=3),
        }
    )


def box_of(labels: np.ndarray) -> np.ndarray:
    """Crop a volume to its non-zero part."""
    return labels[ndimage.find_objects((labels > 0).astype(int))[0]]


def test_an_undeformed_subject_is_its_label_map(bank):
    for index in range(5):
        params = sample_anatomy(dataclasses.replace(STILL, min_organs=9), SHAPE, bank, sample_generator(0, index))
        assert params.label_count == 10
        assert np.array_equal(box_of(render_anatomy(params, bank).numpy()), box_of(painted(body(9, seed=1))))


# Beyond 1, far more is looked at than there is: nothing may come twice.
@pytest.mark.parametrize("scale", [(0.8, 1.2), (3.0, 4.0)])
@pytest.mark.parametrize("shape", [SHAPE, (24, 32, 20)])
def test_equals_scipy(bank, scale, shape):
    config = AnatomyConfig(scale=scale, max_rotation_deg=40.0, max_shear=0.2, sources=("torsos",), max_warp_std_vox=0.0)
    for index in range(3):
        params = sample_anatomy(config, shape, bank, sample_generator(1, index))
        where = mapped_coordinates(params.matrix, shape)
        expected = ndimage.map_coordinates(painted(body(5, seed=2)), where, order=0, mode="grid-constant")
        labels = render_anatomy(params, bank).numpy()
        assert not ((labels != expected) & ~near_a_border(where, 2e-4)).any()
        assert labels.any()


def test_displaced_equals_scipy_on_host_and_device():
    labels = torch.randint(0, 9, SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    warp = sample_smooth_noise((10.0, 20.0), 3.0, 9.0, sample_generator(0, 0))
    displacement = smooth_noise(SHAPE, warp, channels=3)
    where = displacement.numpy() + np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    expected = ndimage.map_coordinates(labels.numpy(), where, order=0, mode="nearest")
    found = displace(labels, displacement)
    assert not ((found.numpy() != expected) & ~near_a_border(where, 1e-4)).any()
    assert torch.equal(found, anatomy._displace_on_device(labels, displacement))
    assert torch.equal(displace(labels, torch.zeros(3, *SHAPE)), labels)


def test_the_warp_bends_and_changes_little_else(bank):
    config = AnatomyConfig(sources=("torsos",))
    drawn = sample_anatomy(config, SHAPE, bank, sample_generator(0, 3))
    one, two = (
        render_anatomy(dataclasses.replace(drawn, warp=dataclasses.replace(drawn.warp, stds=(std,))), bank)
        for std in (3.0, 0.0)
    )
    assert 0.005 < (one != two).float().mean() < 0.3
    assert set(one.unique().tolist()) == set(two.unique().tolist())


def test_a_short_box_lies_in_the_volume_and_a_long_one_around_it(bank):
    corners = {SHAPE: [], (24, 64, 24): []}
    for shape, found in corners.items():
        for index in range(40):
            params = sample_anatomy(
                dataclasses.replace(STILL, sources=("torsos",)), shape, bank, sample_generator(0, index)
            )
            found.append(params.matrix[:, 3])
    box = ndimage.find_objects((painted(body(5, seed=2)) > 0).astype(int))[0]
    first, last = np.array([(s.start, s.stop - 1) for s in box]).T
    for shape, found in corners.items():
        seen_first, seen_last = np.array(found), np.array(found) + np.array(shape) - 1
        long = last - first > np.array(shape) - 1
        assert long.tolist() == [shape[0] == 24, False, shape[0] == 24]
        # Of what is around a long box, at most a quarter of the volume is seen, and mostly nothing.
        quarter = (np.array(shape) - 1) / 4
        for beyond in (first - seen_first, seen_last - last):
            assert np.all(np.where(long, beyond <= quarter + 1e-6, beyond >= -1e-6))
            assert not long.any() or np.median(beyond[:, long]) <= 1e-6
        assert seen_first.std(0).min() > 1


def test_something_is_seen_of_a_body_that_is_mostly_empty():
    masks = np.zeros((4, 150, 40, 160), dtype=bool)
    for i, x in enumerate((0, 5, 140, 147)):
        masks[i, x : x + 3, 3 * i : 3 * i + 4, 50 * i : 50 * i + 4] = True
    bank = bank_of_subjects({("sparse", "a"): list(masks)})
    for index in range(40):
        assert render_anatomy(
            sample_anatomy(AnatomyConfig(), (32, 32, 48), bank, sample_generator(0, index)), bank
        ).any()


def test_only_whole_subjects_of_the_sources_are_drawn(bank):
    assert list(map(len, eligible_subjects(bank, AnatomyConfig()))) == [6, 9, 5]
    assert list(map(len, eligible_subjects(bank, AnatomyConfig(min_organs=1)))) == [6, 9, 5, 1]
    assert list(map(len, eligible_subjects(bank, AnatomyConfig(sources=("brains", "shapes"))))) == [6, 9]
    drawn = {sample_anatomy(AnatomyConfig(), SHAPE, bank, sample_generator(0, index)).organs for index in range(30)}
    assert drawn == set(eligible_subjects(bank, AnatomyConfig()))
    # Gone through once a bank, not once a sample.
    assert eligible_subjects(bank, AnatomyConfig()) is eligible_subjects(bank, AnatomyConfig(max_shear=0.1))


def test_a_bank_without_whole_subjects_is_refused(bank):
    with pytest.raises(InputError, match="at least 4 organs; of the bank's 8 subjects none has more than 1"):
        sample_anatomy(AnatomyConfig(), SHAPE, procedural_bank(count=8), sample_generator(0, 0))
    with pytest.raises(InputError, match="of the bank's 0 subjects from livers none"):
        sample_anatomy(AnatomyConfig(sources=("livers",)), SHAPE, bank, sample_generator(0, 0))


def test_more_organs_than_labels():
    masks = np.zeros((260, 13, 20, 4), dtype=bool)
    for i, (x, y) in enumerate(np.ndindex(13, 20)):
        masks[i, x, y, :] = True
    bank = bank_of_subjects({("many", "a"): list(masks)})
    params = sample_anatomy(STILL, (24, 24, 16), bank, sample_generator(0, 0))
    assert params.label_count == 251 and render_anatomy(params, bank).unique().tolist() == list(range(251))
    # Not always the same are left out.
    drawn = [sample_anatomy(STILL, (24, 24, 16), bank, sample_generator(0, index)).organs for index in range(12)]
    assert all(len(organs) == 250 and list(organs) == sorted(set(organs)) for organs in drawn)
    assert {i for organs in drawn for i in organs} == set(range(260))


def test_an_anatomy_depends_on_the_draw_alone(bank):
    before = torch.get_rng_state()
    first, again, other = (
        render_anatomy(sample_anatomy(AnatomyConfig(), SHAPE, bank, sample_generator(0, index)), bank)
        for index in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_organs": 0},
        {"scale": (0.0, 1.0)},
        {"scale": (1.2, 0.8)},
        {"max_rotation_deg": -1.0},
        {"max_shear": -0.1},
        {"warp_scales_vox": (0.0,)},
        {"max_warp_std_vox": -1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        AnatomyConfig(**wrong)
