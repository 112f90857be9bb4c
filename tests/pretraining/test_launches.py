"""Launches of a sample and of a training step on a GPU, counted without one."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
import torch

from pretraining.backbone import subpixel
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.common.random import sample_generator
from pretraining.engine import synthesis
from pretraining.engine.appearance import apply_appearances, sample_appearance
from pretraining.engine.label_models import LABEL_MODELS
from pretraining.engine.online import apply_online, sample_online
from pretraining.engine.synthesis import EngineConfig, Pair
from pretraining.learning.objectives import contrastive as model
from pretraining.learning.objectives.choice import ObjectiveConfig, make_objective, total_loss
from pretraining.learning.objectives.moved_views import MovedViews
from tests.oracles.plain_unet import plain_features
from tests.pretraining.launches import counted_launches
from tests.shared_bank import default_bank

log = logging.getLogger(__name__)
SAMPLES = 10


def launches_of_samples(*, triton: bool) -> Counter[str]:
    """As :func:`pretraining.engine.synthesis.synthesize_pair`, all draws first."""
    bank, config, drawn = default_bank(), EngineConfig(), []
    for index in range(SAMPLES):
        ensemble = LABEL_MODELS["ensemble"].sample(
            config.ensemble, (config.side,) * 3, bank, sample_generator(0, index, "ensemble")
        )
        looks = [
            sample_appearance(config.appearance, ensemble.label_count, sample_generator(0, index, f"view {n}"))
            for n in (1, 2)
        ]
        drawn.append((ensemble, looks, sample_online(config.online, sample_generator(0, index, "online"))))
    with counted_launches(triton=triton) as launches, torch.no_grad():
        for ensemble, looks, variation in drawn:
            labels = LABEL_MODELS["ensemble"].render(ensemble, bank, "cuda")
            apply_online(labels, synthesis._to_bytes(apply_appearances(labels, looks)), variation)
    return launches.by_file


@pytest.mark.parametrize(("triton", "most"), [(True, 480), pytest.param(False, 1280, marks=pytest.mark.slow)])
def test_a_sample(triton, most):
    """Mean over some samples, whose artefacts differ.

    It was 1,269 for all devices before Triton's kernels.
    """
    found = {name: count / SAMPLES for name, count in launches_of_samples(triton=triton).most_common()}
    log.warning("triton %s: %.0f launches a sample: %s", triton, sum(found.values()), found)
    assert sum(found.values()) < most


def launches_of_a_step(*, triton: bool) -> Counter[str]:
    """Forward and backward pass of one label map, in bfloat16 and channels-last.

    Without a GPU a backward pass has to be on a CPU, whose ways are the same from the network on.
    """
    with counted_launches(triton=triton, device="cpu") as launches:
        objective = make_objective(ObjectiveConfig(), UNetConfig())
        for parameter in objective.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        sample = Pair(torch.zeros((128,) * 3, dtype=torch.uint8), torch.rand((2, 128, 128, 128)))
        for in_rows in (False, True):  # made once per device, not per step
            subpixel._cached_merge_matrix(torch.float32, torch.device("cpu"), in_rows)
        launches.by_file.clear()
        with torch.autocast("cpu", torch.bfloat16):
            loss = total_loss(objective, objective(sample, generator=torch.Generator()))
        loss.backward()
    return launches.by_file


def test_a_step(monkeypatch):
    """Compare with the step of PyTorch's own operations.

    Beside the same step with padding, upsampling and concatenation by PyTorch. A GPU has more to do
    for those: it brings each volume that it pads into another layout and back.
    """
    monkeypatch.setattr(subpixel, "_adds_by_rows", lambda to: False)  # the way of a CPU
    # Nothing may depend on numbers that are drawn: the two windows lie on each other.
    monkeypatch.setattr(model, "move_views", lambda pair, *_: MovedViews(*pair, (0, 0, 0), np.eye(3, 4)))
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda tensor, generator: tensor.uniform_())
    found = {f"triton {triton}": launches_of_a_step(triton=triton) for triton in (True, False)}
    monkeypatch.setattr(UNet, "features", lambda net, x, taps: plain_features(net, x))
    monkeypatch.setattr(UNet, "features_before_output", lambda net, x, taps: (plain_features(net, x), None))
    found["plain"] = launches_of_a_step(triton=False)
    for name, launches in found.items():
        log.warning("%s: %d launches a label map: %s", name, launches.total(), dict(launches.most_common()))
    assert found["triton True"].total() < 1.1 * found["plain"].total()
