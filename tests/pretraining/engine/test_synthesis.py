"""Samples are a pure function of (bank, config, seed, index)."""

import dataclasses

import numpy as np
import pytest
import torch

from pretraining.common.config import from_dict, to_dict
from pretraining.common.errors import InputError
from pretraining.common.random import sample_generator
from pretraining.engine.artefacts.motion import MotionConfig
from pretraining.engine.ensemble import render_ensemble, sample_ensemble
from pretraining.engine.label_models import LabelModelConfig, choose_label_model
from pretraining.engine.synthesis import EngineConfig, check_bank, synthesize_pair, synthesize_stored
from tests.pretraining.engine.subjects import bank_of_subjects, body


@pytest.fixture(scope="module")
def bank():
    from pretraining.templates.procedural import procedural_bank

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


def test_threads_do_not_change_a_sample(bank):
    before = torch.get_num_threads()
    # Motion was what depended on them, by MKL's transforms.
    often = dataclasses.replace(CONFIG.online, motion=MotionConfig(probability=1.0))
    config = dataclasses.replace(CONFIG, online=often)
    samples = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            samples.append(synthesize_pair(bank, config, seed=1, index=0))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(sample.views, samples[0].views) for sample in samples)


def test_appearance_settings_leave_the_labels_alone(bank):
    louder = dataclasses.replace(
        CONFIG.appearance, texture=dataclasses.replace(CONFIG.appearance.texture, strength=0.2)
    )
    one = synthesize_pair(bank, CONFIG, seed=0, index=1)
    two = synthesize_pair(bank, dataclasses.replace(CONFIG, appearance=louder), seed=0, index=1)
    assert torch.equal(one.labels, two.labels) and not torch.equal(one.views, two.views)


def test_by_default_the_labels_are_an_ensemble_and_nothing_else_takes_from_its_numbers(bank):
    ensemble = sample_ensemble(CONFIG.ensemble, (32, 32, 32), bank, sample_generator(4, 7, "ensemble"))
    assert torch.equal(synthesize_stored(bank, CONFIG, seed=4, index=7).labels, render_ensemble(ensemble, bank))


def test_a_mixture_takes_its_samples_from_the_models_own_data_sets():
    subjects = bank_of_subjects({("bodies", "a"): body(7), ("bodies", "b"): body(5, seed=1)})
    shares = LabelModelConfig(ensemble=1.0, smshapes=1.0, anatomy=1.0)
    drawn = set()
    for index in range(8):
        name = choose_label_model(shares, sample_generator(0, index, "label model"))
        pure = dataclasses.replace(CONFIG, labels=LabelModelConfig(**{"ensemble": 0.0, name: 1.0}))
        one, two = (
            synthesize_pair(subjects, config, seed=0, index=index)
            for config in (dataclasses.replace(CONFIG, labels=shares), pure)
        )
        assert torch.equal(one.labels, two.labels) and torch.equal(one.views, two.views)
        drawn.add(name)
    assert drawn == {"ensemble", "smshapes", "anatomy"}


def test_a_bank_of_single_shapes_serves_all_but_real_label_maps(bank):
    check_bank(bank, CONFIG)
    check_bank(bank, dataclasses.replace(CONFIG, labels=LabelModelConfig(smshapes=1.0)))
    with pytest.raises(InputError, match="at least 4 organs"):
        check_bank(bank, dataclasses.replace(CONFIG, labels=LabelModelConfig(anatomy=0.1)))


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
        CONFIG,
        ensemble=dataclasses.replace(
            CONFIG.ensemble, foreground=dataclasses.replace(CONFIG.ensemble.foreground, probability=0.0)
        ),
    )
    on_cpu, on_cuda = (synthesize_pair(bank, config, seed=0, index=0, device=device) for device in ("cpu", "cuda"))
    assert torch.equal(on_cpu.labels, on_cuda.labels.cpu())
    assert on_cuda.views.isfinite().all() and on_cuda.views.is_cuda
