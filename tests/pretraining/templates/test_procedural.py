"""Procedural shapes are never empty, vary, and depend on the seed alone."""

import pytest
import torch

from pretraining.common.random import sample_generator
from pretraining.templates.procedural import KINDS, procedural_bank, procedural_shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(3))
def test_shapes_are_neither_empty_nor_solid_boxes(kind, index):
    mask = procedural_shape(kind, sample_generator(4, index))
    assert mask.dtype == torch.bool and mask.any() and mask.float().mean() < 0.9


def test_the_bank_is_a_function_of_its_seed():
    one, same, other = (procedural_bank(count=9, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one.mask(i), same.mask(i)) for i in range(9))
    assert any(one.shape(i) != other.shape(i) for i in range(9))
    assert {one.entry(i).organ for i in range(9)} == set(KINDS)
    # The first shapes stay when more are asked for.
    assert torch.equal(procedural_bank(count=3, seed=1).mask(2), one.mask(2))


def test_no_shapes_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        procedural_bank(count=0)
