"""Test that every objective learns, trains the whole backbone, and uses only its inputs."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNetConfig
from pretraining.common.errors import InputError
from pretraining.common.random import sample_generator
from pretraining.engine.ensemble import EnsembleConfig, render_ensemble, sample_ensemble
from pretraining.engine.label_models import LabelModelConfig
from pretraining.engine.online import OnlineConfig
from pretraining.engine.synthesis import EngineConfig, Pair, synthesize_pair
from pretraining.engine.targets import (
    BACKGROUND,
    ENVELOPE,
    INSIDE,
    OTHER,
    CleanPair,
    class_count,
    classes_of,
    frequent_kinds,
    synthesize_classes,
    synthesize_with_clean,
)
from pretraining.learning.objectives.choice import (
    ObjectiveConfig,
    compute_losses,
    make_objective,
    sample_maker,
    total_loss,
)
from pretraining.learning.objectives.contrastive import ContrastiveConfig
from pretraining.learning.objectives.dense import mean_dice_loss
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.templates.procedural import KINDS, procedural_bank

KIND_NAMES = ("contrastive", "label_free", "denoising", "segmentation")
ENGINE = EngineConfig(side=16)


def config(kind: str) -> ObjectiveConfig:
    return ObjectiveConfig(
        kind=kind, contrastive=ContrastiveConfig(positions=128), projection=ProjectionConfig(width=32)
    )


def objective(kind: str) -> torch.nn.Module:
    return build(
        lambda: make_objective(config(kind), UNetConfig(width=8, poolings=3)), torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(16)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_an_objective_learns(kind, bank):
    """Compare the loss of 4 fixed samples before and after 60 steps, with batch statistics."""
    model, make = objective(kind), sample_maker(config(kind))
    fixed = [make(bank, ENGINE, seed=0, index=1000 + i) for i in range(4)]

    def loss() -> float:
        with torch.no_grad():
            return (
                sum(
                    total_loss(model, compute_losses(model, sample, 1000 + i, 0)).item()
                    for i, sample in enumerate(fixed)
                )
                / 4
            )

    before = loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(60):
        total_loss(model, compute_losses(model, make(bank, ENGINE, seed=0, index=step), step, 0)).backward()
        if step == 0:
            parameters = dict(model.backbone.named_parameters())
            assert all(
                parameter.grad is not None and parameter.grad.isfinite().all() for parameter in parameters.values()
            )
        optimizer.step()
        optimizer.zero_grad()
    assert loss() < before - 0.01


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_terms_have_names_and_weights_and_depend_on_the_index_alone(kind, bank):
    model, make = objective(kind), pickle.loads(pickle.dumps(sample_maker(config(kind))))
    sample = make(bank, ENGINE, seed=0, index=3)
    before = torch.get_rng_state()
    losses = compute_losses(model, sample, 3, 0)
    assert losses.shape == (len(model.terms),) == (len(model.weights),) and losses.dtype == torch.float32
    assert torch.equal(losses, compute_losses(model, sample, 3, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_label_free_learning_looks_at_no_label(bank):
    model = objective("label_free")
    sample = synthesize_pair(bank, ENGINE, seed=0, index=0)
    blind = Pair(torch.zeros_like(sample.labels), sample.views)
    assert torch.equal(compute_losses(model, sample, 0, 0), compute_losses(model, blind, 0, 0))


def test_the_variance_term_sees_a_collapse():
    from pretraining.learning.objectives.label_free import _collapse_terms

    generator = torch.Generator().manual_seed(0)
    spread, collapsed = (
        torch.randn(500, 16, generator=generator),
        torch.ones(500, 16) + 1e-4 * torch.randn(500, 16, generator=generator),
    )
    low = torch.randn(500, 1, generator=generator) * torch.ones(16)
    assert _collapse_terms(spread)[0] < 0.1 and _collapse_terms(collapsed)[0] > 0.9
    assert _collapse_terms(spread)[1] < 0.5 and _collapse_terms(low)[1] > 5


def test_clean_images_are_the_views_without_artefacts(bank):
    """Disable texture, artefacts and online intensities: only 8-bit rounding remains."""
    quiet = {
        name: dataclasses.replace(getattr(ENGINE.appearance, name), probability=0.0)
        for name in ("bias_field", "spike", "gamma", "smoothing", "gibbs", "sharpening", "low_resolution")
    }
    texture = dataclasses.replace(ENGINE.appearance.texture, strength=0.0)
    appearance = dataclasses.replace(ENGINE.appearance, texture=texture, **quiet)
    off = {
        name: dataclasses.replace(getattr(ENGINE.online, name), probability=0.0)
        for name in ("blur", "noise", "bias_field", "log_gamma", "motion")
    }
    plain = EngineConfig(side=32, appearance=appearance, online=OnlineConfig(upper_quantile=1.0, **off))
    for index in range(4):
        sample = synthesize_with_clean(bank, plain, seed=0, index=index)
        assert isinstance(sample, CleanPair)
        # After an affine map both are scaled anew, by extremes that interpolation has changed.
        assert (sample.views - sample.clean).abs().mean() < 0.02
        pair = synthesize_pair(bank, plain, seed=0, index=index)
        assert torch.equal(sample.labels, pair.labels) and torch.equal(sample.views, pair.views)
    loud = synthesize_with_clean(bank, ENGINE, seed=0, index=0)
    assert (loud.views - loud.clean).abs().mean() > 0.03


def test_classes_are_those_of_the_templates(bank):
    config = EngineConfig(side=32, online=OnlineConfig(enabled=False))
    seen = set()
    for index in range(12):
        ensemble = sample_ensemble(config.ensemble, (32,) * 3, bank, sample_generator(0, index, "ensemble"))
        instances = render_ensemble(ensemble, bank)
        classes = synthesize_classes(bank, config, seed=0, index=index, kinds=5).labels
        kinds = frequent_kinds(bank)[:5]
        masked = ensemble.foreground is not None
        for label in instances.unique().tolist():
            found = classes[instances == label].unique().tolist()
            template = label - 1 - masked
            if label == 0:
                expected = BACKGROUND
            elif template < 0:
                expected = INSIDE
            elif template == len(ensemble.templates):
                expected = ENVELOPE
            else:
                organ = bank.entry(ensemble.templates[template]).organ
                expected = OTHER + 1 + kinds.index(organ) if organ in kinds else OTHER
            assert found == [expected]
            seen.add(expected)
    assert seen == set(range(class_count(5)))


def test_classes_need_templates(bank):
    with pytest.raises(InputError, match="label ensembles only"):
        synthesize_classes(bank, EngineConfig(side=32, labels=LabelModelConfig(smshapes=1.0)), seed=0, index=0, kinds=3)


def test_kinds_are_counted():
    assert set(frequent_kinds(procedural_bank(16))) == set(KINDS)
    assert frequent_kinds(procedural_bank(9))[0] == next(iter(KINDS))
    ensemble = sample_ensemble(EnsembleConfig(), (32,) * 3, procedural_bank(4), sample_generator(0, 1))
    assert len(classes_of(ensemble, ["a"] * len(ensemble.templates), ["b"])) == ensemble.label_count


def test_dice_of_the_truth_is_perfect_and_of_its_opposite_the_worst():
    classes = torch.tensor([0, 1, 1, 2]).view(1, 2, 2)
    truth = torch.nn.functional.one_hot(classes, 5).permute(3, 0, 1, 2)[None].float()
    assert mean_dice_loss(100 * truth, classes) < 1e-3
    assert mean_dice_loss(100 * truth.roll(1, dims=1), classes) > 0.6


@pytest.mark.parametrize("wrong", [{"kind": "magic"}, {"kinds": 0}])
def test_impossible_objectives_are_refused(wrong):
    with pytest.raises(ValueError, match="kind"):
        ObjectiveConfig(**wrong)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_output_at_drawn_voxels_gives_the_dense_loss(bf16, monkeypatch):
    """Few positions in a large window: the last convolution is computed at these voxels only."""
    settings = ObjectiveConfig(contrastive=ContrastiveConfig(positions=64, max_shift_vox=4))
    model = build(lambda: make_objective(settings, UNetConfig(width=4, poolings=2)), torch.Generator().manual_seed(0))
    sample = synthesize_pair(procedural_bank(8), EngineConfig(side=32), seed=0, index=0)
    sample = Pair(sample.labels[:20, :20, :20], sample.views[:, :20, :20, :20].contiguous())
    calls = []
    sparse = type(model.backbone).output_at
    monkeypatch.setattr(
        type(model.backbone), "output_at", lambda net, *arguments: calls.append(1) or sparse(net, *arguments)
    )

    def loss_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = total_loss(model, model(sample, generator=torch.Generator().manual_seed(1)))
        loss.backward()
        return loss.detach(), model.backbone.output.weight.grad.clone()

    found = loss_and_gradient()
    assert calls
    monkeypatch.setattr("pretraining.learning.objectives.contrastive.NEIGHBOURS", 10**9)
    expected = loss_and_gradient()
    assert len(calls) == 1
    tolerance = 0.02 if bf16 else 1e-5
    torch.testing.assert_close(found[0], expected[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found[1], expected[1], atol=tolerance, rtol=10 * tolerance)
