"""Test that the average equals PyTorch's after every update."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pretraining.learning.weight_average import WeightAverage


def changed(model: nn.Module, generator: torch.Generator) -> nn.Module:
    model(torch.randn(8, 3, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return model


def test_updates_equal_those_of_pytorch_also_after_going_on_from_a_state():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = WeightAverage(model, decay=0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for step in range(6):
        if step == 3:
            state = copy.deepcopy(ours.state_dict())
            ours = WeightAverage(model, decay=0.9, state=state)
            theirs.load_state_dict(state)
        changed(model, generator)
        ours.update_parameters(model)
        theirs.update_parameters(model)
        found, expected = ours.state_dict(), theirs.state_dict()
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert int(ours.n_averaged) == 6
