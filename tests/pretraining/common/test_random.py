"""Generators are pure functions of seed, index and purpose."""

import pytest
import torch

from pretraining.common.random import happens, integers, noise_generator, noise_seed, sample_generator, uniforms


def first(generator: torch.Generator) -> int:
    return noise_seed(generator)


def test_a_sample_draws_from_seed_index_and_purpose_alone():
    before = torch.get_rng_state()
    assert first(sample_generator(3, 5, "view 1")) == first(sample_generator(3, 5, "view 1"))
    different = [(3, 5, "view 1"), (5, 3, "view 1"), (3, 5, "view 2"), (35, 0, "view 1"), (3, 5, "")]
    assert len({first(sample_generator(*which)) for which in different}) == len(different)
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbouring_samples_are_unrelated():
    draws = torch.tensor([uniforms(1, 0.0, 1.0, sample_generator(0, index))[0] for index in range(2000)])
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(torch.corrcoef(torch.stack([draws[1:], draws[:-1]]))[0, 1]) < 0.08


@pytest.mark.parametrize("seed, index", [(-1, 0), (2**63, 0), (0, -1), (0, 2**63), (0.5, 0), (True, 0), ("1", 0)])
def test_seeds_out_of_range_are_refused(seed, index):
    with pytest.raises(ValueError, match="must be an integer from 0 to"):
        sample_generator(seed, index)


def test_largest_seed_is_accepted():
    sample_generator(2**63 - 1, 2**63 - 1)
    noise_generator(2**63 - 1, "cpu")


def test_draws_stay_in_their_ranges():
    generator = sample_generator(0, 0)
    values = uniforms(500, -2.0, 3.0, generator)
    assert -2 <= min(values) < -1.9 and 2.9 < max(values) < 3
    assert set(integers(500, 2, 4, generator)) == {2, 3, 4}
    assert not happens(0.0, generator) and happens(1.0, generator)
    assert 0.2 < sum(happens(0.25, generator) for _ in range(1000)) / 1000 < 0.3
