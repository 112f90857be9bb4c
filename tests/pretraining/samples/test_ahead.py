"""Test that prefetching changes neither the order nor the bytes of samples."""

import pytest
import torch

from pretraining.engine.synthesis import EngineConfig
from pretraining.samples.ahead import prefetch_to_device
from pretraining.samples.stream import PairStream, load
from pretraining.templates.procedural import procedural_bank


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_order_and_bytes_are_those_of_the_stream(device, length):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    bank = procedural_bank(count=8)
    stream = PairStream(bank=bank, config=EngineConfig(side=16), seed=3, start=2, length=length, device=device)
    plain = list(load(stream))
    ahead = []
    for index, pair in prefetch_to_device(load(stream), torch.device(device), depth=2):
        # Work on the training's stream, as a step would do, so that reading too early would show.
        ahead.append((index, [part.clone() for part in pair]))
    assert [index for index, _ in ahead] == [index for index, _ in plain] == list(range(2, 2 + length))
    for (_, pair), (_, copied) in zip(plain, ahead, strict=True):
        assert all(
            torch.equal(part, copy) and copy.device.type == device for part, copy in zip(pair, copied, strict=True)
        )
