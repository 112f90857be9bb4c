"""A sample is a pure function of (bank, config, seed, index)."""

import dataclasses

import numpy as np
import pytest
import torch

from pretraining.config import from_dict, to_dict
from pretraining.engine.synthesis import EngineConfig, synthesize_pair


@pytest.fixture(scope="module")
def bank():
    from pretraining.engine.shapes import procedural_bank

    return procedural_bank(count=16)


CONFIG = EngineConfig(side=32)


def test_what_a_pair_is(bank):
    pair = synthesize_pair(bank, CONFIG, seed=0, index=0)
    assert pair.labels.shape == (32, 32, 32) and pair.labels.dtype == torch.uint8
    assert pair.views.shape == (2, 32, 32, 32) and pair.views.dtype == torch.float32
    assert pair.views.min() >= 0 and pair.views.max() <= 1
    assert not torch.equal(*pair.views) and len(pair.labels.unique()) > 3


def test_same_arguments_same_sample_whatever_the_global_state(bank):
    first = synthesize_pair(bank, CONFIG, seed=1, index=2)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = synthesize_pair(bank, CONFIG, seed=1, index=2)
    assert torch.equal(first.labels, again.labels) and torch.equal(first.views, again.views)
    assert torch.equal(torch.get_rng_state(), before) and np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    for other in (synthesize_pair(bank, CONFIG, seed=1, index=3), synthesize_pair(bank, CONFIG, seed=2, index=2)):
        assert not torch.equal(first.labels, other.labels) and not torch.equal(first.views, other.views)


def test_training_settings_do_not_change_a_sample(bank):
    plain = synthesize_pair(bank, CONFIG, seed=1, index=5)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        inside = synthesize_pair(bank, CONFIG, seed=1, index=5)
    assert torch.equal(plain.labels, inside.labels) and torch.equal(plain.views, inside.views)
    assert inside.views.dtype == torch.float32 and not inside.views.requires_grad


def test_appearance_settings_leave_the_labels_alone(bank):
    louder = dataclasses.replace(CONFIG.appearance, texture=dataclasses.replace(CONFIG.appearance.texture, strength=0.2))
    one = synthesize_pair(bank, CONFIG, seed=0, index=1)
    two = synthesize_pair(bank, dataclasses.replace(CONFIG, appearance=louder), seed=0, index=1)
    assert torch.equal(one.labels, two.labels) and not torch.equal(one.views, two.views)


def test_no_view_is_black(bank):
    for index in range(20):
        views = synthesize_pair(bank, CONFIG, seed=7, index=index).views
        assert (views.flatten(1).std(1) > 0.02).all()


def test_config_survives_json():
    config = EngineConfig(side=48, appearance=dataclasses.replace(CONFIG.appearance))
    assert from_dict(EngineConfig, to_dict(config)) == config


@pytest.mark.parametrize("side", [0, 8, 100, -16])
def test_sides_that_the_backbone_cannot_halve_are_refused(side):
    with pytest.raises(ValueError, match="multiple of 16"):
        EngineConfig(side=side)


@pytest.mark.parametrize("seed, index", [(-1, 0), (0, -1), (2**63, 0)])
def test_seeds_out_of_range_are_refused(bank, seed, index):
    with pytest.raises(ValueError, match="must be an integer from 0"):
        synthesize_pair(bank, CONFIG, seed=seed, index=index)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_makes_the_same_anatomy(bank):
    config = dataclasses.replace(
        CONFIG, ensemble=dataclasses.replace(CONFIG.ensemble, foreground=dataclasses.replace(CONFIG.ensemble.foreground, probability=0.0))
    )
    on_cpu, on_cuda = (synthesize_pair(bank, config, seed=0, index=0, device=device) for device in ("cpu", "cuda"))
    assert torch.equal(on_cpu.labels, on_cuda.labels.cpu())
    assert on_cuda.views.isfinite().all() and on_cuda.views.is_cuda
