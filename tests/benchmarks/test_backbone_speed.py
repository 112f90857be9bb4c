"""Time of the backbone, relative to the same network by PyTorch's own operations in one run.

These operations are padding, upsampling and concatenation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pretraining.backbone.unet import UNet
from pretraining.common.device import has_bf16_units
from tests.oracles.plain_unet import plain_features

log = logging.getLogger(__name__)
SIDE, ROUNDS = 64, 7


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds(net: UNet, forward: Callable[[Tensor], Tensor], *, bf16: bool) -> tuple[float, float]:
    """Processor time of a prediction, and of a forward and backward pass, of two views."""
    x = torch.rand(2, 1, SIDE, SIDE, SIDE)
    taken = []
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        begin = time.process_time()
        with torch.no_grad():
            forward(x)
        taken.append(time.process_time() - begin)
        begin = time.process_time()
        features = forward(x)
    features.float().square().mean().backward()
    taken.append(time.process_time() - begin)
    net.zero_grad()
    return tuple(taken)


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_is_faster_than_pytorchs_own_operations(one_thread, bf16):
    if bf16 and not has_bf16_units(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16 units")
    torch.manual_seed(0)
    net = UNet().to(memory_format=torch.channels_last_3d)
    ways = {"ours": net, "plain": lambda x: plain_features(net, x)["output"]}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, forward in ways.items():
            taken[name].append(seconds(net, forward, bf16=bf16))
    best = {name: [min(each) for each in zip(*rounds, strict=True)] for name, rounds in taken.items()}
    prediction, step = (ours / plain for ours, plain in zip(best["ours"], best["plain"], strict=True))
    log.warning(
        "2 views of %d³ in %s: prediction %.2f s, plain %.2f, ratio %.2f; "
        "with backward pass %.2f s, plain %.2f, ratio %.2f",
        *(
            SIDE,
            "bf16" if bf16 else "fp32",
            best["ours"][0],
            best["plain"][0],
            prediction,
            best["ours"][1],
            best["plain"][1],
            step,
        ),
    )
    assert prediction < 1.05 and step < 0.95
