"""Learning-rate schedule: rates of every stage over the iterations."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.optim import Adam

from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.schedule import (
    RatePerIteration,
    ScheduleConfig,
    half_cosine,
    parameter_groups,
    stage_depths,
    stage_of,
)

RATE = 0.5
STAGES = ["head", "output", "decoder.0", "decoder.1", "bottleneck", "encoder.1", "encoder.0", "stem"]


def network() -> AnatomixNetwork:
    torch.manual_seed(3)
    return AnatomixNetwork(1, 2, width=2, poolings=2, out_channels=2)


def run(
    config: ScheduleConfig, epochs: list[int], *, stop_after: int | None = None
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Train a small network; return the rates by stage at every iteration, and the final weights.

    After ``stop_after`` epochs, rebuild everything from the state that nnU-Net saves.
    """
    net, iterations, seen = network(), sum(epochs), []
    optimizer, schedule = _build(net, config, iterations, epochs[0])
    for epoch, steps in enumerate(epochs):
        if epoch == stop_after:
            saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
            net = network()
            optimizer, schedule = _build(net, config, iterations, epochs[0])
            net.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        schedule.step(epoch)
        for _ in range(steps):
            seen.append({group["stage"]: group["lr"] for group in optimizer.param_groups})
            optimizer.zero_grad()
            patch = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(len(seen)))
            net(patch).square().mean().backward()
            optimizer.step()
    return seen, net.state_dict()


def _build(net, config, iterations, iterations_per_epoch):
    optimizer = Adam(parameter_groups(net, config, RATE))
    return optimizer, RatePerIteration(optimizer, config, iterations, iterations_per_epoch)


def changed(state: dict[str, torch.Tensor]) -> set[str]:
    """Return the stages whose weights differ from the initial ones."""
    first = dict(network().named_parameters())
    return {stage_of(name) for name in first if not torch.equal(first[name], state[name])}


def test_stages_do_not_depend_on_wrappers_of_the_network():
    assert {stage_of(name) for name, _ in network().named_parameters()} == set(STAGES)
    assert (
        stage_of("module._orig_mod.backbone.decoder.1.0.conv.weight") == "decoder.1"
        and stage_of("module.head.weight") == "head"
    )


def test_depth_counts_stages_from_the_segmentation_back():
    assert sorted(stage_depths(STAGES), key=stage_depths(STAGES).get) == STAGES and stage_depths(STAGES)["stem"] == 7


def test_all_layers_follow_one_half_cosine_within_an_epoch_too():
    seen, state = run(ScheduleConfig(head_factor=1), [4, 4, 2])
    assert [set(rates.values()) for rates in seen] == [{RATE * half_cosine(step / 10)} for step in range(10)]
    assert half_cosine(0) == 1 and half_cosine(0.5) == pytest.approx(0.5) and half_cosine(1) == pytest.approx(0)
    assert changed(state) == set(STAGES)


def test_head_first_trains_the_head_alone_and_then_all():
    config = ScheduleConfig(trained="head_first", head_share=0.4)
    seen, _ = run(config, [5, 5])
    assert all(rates["head"] > 0 for rates in seen)
    assert [rates["stem"] > 0 for rates in seen] == [False] * 4 + [True] * 6
    _, state = run(config, [4])
    assert changed(state) == set(STAGES)  # the other stages train in the last two of four iterations
    _, state = run(ScheduleConfig(trained="head_first", head_share=0.99), [4])
    assert changed(state) == {"head"}


def test_stages_that_do_not_train_yet_accumulate_no_moments():
    net = network()
    optimizer, _ = _build(net, ScheduleConfig(trained="head_first", head_share=0.5), 4, 4)
    net(torch.rand(1, 1, 8, 8, 8)).square().mean().backward()
    optimizer.step()
    named = dict(net.named_parameters())
    assert {stage_of(name) for name, parameter in named.items() if optimizer.state.get(parameter)} == {"head"}


def test_a_frozen_encoder_keeps_its_weights_and_needs_no_gradient():
    seen, state = run(ScheduleConfig(trained="frozen_encoder"), [3])
    assert changed(state) == {"head", "output", "decoder.0", "decoder.1"} == set(seen[0])


def test_rates_rise_once_a_stage_begins():
    seen, _ = run(ScheduleConfig(trained="head_first", head_share=0.2, warmup_share=0.3), [10])
    for stage, first in (("head", 0), ("stem", 2)):
        highest = RATE * (10 if stage == "head" else 1)
        ramp = [seen[first + step][stage] / (highest * half_cosine((first + step) / 10)) for step in range(4)]
        assert ramp == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_the_head_alone_learns_at_a_multiple_of_the_rate():
    (rates,), _ = run(ScheduleConfig(), [1])
    assert rates.pop("head") == 10 * RATE and set(rates.values()) == {RATE}


def test_deeper_stages_learn_more_slowly():
    seen, _ = run(ScheduleConfig(layer_decay=0.5, head_factor=1), [1])
    assert [seen[0][stage] for stage in STAGES] == [RATE * 0.5**depth for depth in range(len(STAGES))]


@pytest.mark.parametrize(
    "config",
    [
        ScheduleConfig(),
        ScheduleConfig(trained="head_first", head_share=0.3, warmup_share=0.2),
        ScheduleConfig(trained="head_first", head_share=0.7),
        ScheduleConfig(trained="frozen_encoder", layer_decay=0.8),
    ],
)
@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_ends_like_an_uninterrupted_one(config, stop_after):
    epochs = [4, 4, 2]
    whole, continued = run(config, epochs), run(config, epochs, stop_after=stop_after)
    assert whole[0] == continued[0]
    assert all(torch.equal(tensor, continued[1][name]) for name, tensor in whole[1].items())


@pytest.mark.parametrize(
    "wrong",
    [{"trained": "some"}, {"head_share": 0.0}, {"warmup_share": 1.0}, {"layer_decay": 0.0}, {"head_share": math.nan}],
)
def test_invalid_values_are_refused(wrong):
    with pytest.raises(ValueError):
        ScheduleConfig(**wrong)
