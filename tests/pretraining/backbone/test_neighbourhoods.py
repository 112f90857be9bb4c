"""Convolution at selected voxels equals the dense one, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pretraining.backbone.convolutions import Conv3x3x3
from pretraining.backbone.unet import UNet, UNetConfig

LAYOUTS = {"channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_at(conv: Conv3x3x3, x: Tensor, positions: Tensor) -> Tensor:
    rows = conv(x).flatten(2).transpose(1, 2)
    return torch.stack([row[at] for row, at in zip(rows, positions.expand(len(x), -1), strict=True)])


POSITIONS = {
    "all": torch.arange(4 * 3 * 5),
    "corners and faces": torch.tensor([0, 4, 10, 59, 55, 17, 22]),
    "one": torch.tensor([31]),
    "none": torch.tensor([], dtype=torch.int64),
    "twice": torch.tensor([7, 30, 7]),
    "other ones in every volume": torch.tensor([[0, 8, 59], [59, 9, 9]]),
}


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options", [{"padding": "reflect", "bias": True}, {"padding": "zeros", "bias": False}], ids=str
)
def test_equals_the_dense_convolution(name, layout, options):
    torch.manual_seed(0)
    conv = Conv3x3x3(6, 7, **options).double().to(memory_format=LAYOUTS[layout])
    x = draw(2, 6, 4, 3, 5).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    positions = POSITIONS[name]
    found, expected = conv.at(x, positions), dense_at(conv, x, positions)
    assert found.shape == (2, positions.shape[-1], 7)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    inputs, gradient = (x, *conv.parameters()), draw(*found.shape, seed=1)
    ours, theirs = (torch.autograd.grad(each, inputs, gradient) for each in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert layout == "contiguous" or ours[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2)])
def test_zeros_may_lie_around_a_single_voxel(shape):
    conv = Conv3x3x3(2, 3, bias=True, padding="zeros").double()
    x, positions = draw(2, 2, *shape), torch.arange(torch.Size(shape).numel())
    torch.testing.assert_close(conv.at(x, positions), dense_at(conv, x, positions))


def test_is_as_accurate_as_the_dense_one_in_bfloat16():
    torch.manual_seed(0)
    conv = Conv3x3x3(16, 16, bias=True, padding="reflect").to(memory_format=torch.channels_last_3d)
    x = draw(2, 16, 6, 4, 8).contiguous(memory_format=torch.channels_last_3d).bfloat16()
    positions = torch.arange(0, 192, 5)
    exact = dense_at(conv.double(), x.double(), positions)
    conv.float()
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = conv.at(x, positions), dense_at(conv, x, positions)
    assert found.dtype == rounded.dtype == torch.bfloat16
    errors = [(each - exact).square().mean().sqrt() / exact.square().mean().sqrt() for each in (found, rounded)]
    assert errors[0] < 1.5 * errors[1] and errors[0] < 0.01


def test_the_network_gives_its_output_at_drawn_voxels():
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=2, poolings=2, out_channels=5)).double().to(memory_format=torch.channels_last_3d)
    x, positions = torch.rand(2, 1, 8, 16, 12, dtype=torch.float64), torch.tensor([0, 5, 700, 1535])
    taps = ("bottleneck.0", "output")
    features, last = net.features_before_output(x, taps)
    dense = net.features(x, taps)
    assert features.keys() == {"bottleneck.0"}
    torch.testing.assert_close(
        net.output_at(last, positions), dense["output"].flatten(2)[:, :, positions].transpose(1, 2)
    )
    torch.testing.assert_close(net.output(last), dense["output"])
    torch.testing.assert_close(features["bottleneck.0"], dense["bottleneck.0"])
