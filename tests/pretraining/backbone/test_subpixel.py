"""Convolution on the coarse grid equals that of the upsampled volume, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from pretraining.backbone import convolutions, subpixel
from pretraining.backbone.convolutions import SkipConv3x3x3
from pretraining.backbone.subpixel import add_upsampled_convolution, interleave

LAYOUTS = {"channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format}


@pytest.fixture(autouse=True)
def _small_grids_too(monkeypatch):
    monkeypatch.setattr(convolutions, "COARSE_VOXELS", 1)


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain(skip: Tensor, below: Tensor, conv: SkipConv3x3x3) -> Tensor:
    both = torch.cat((skip, functional.interpolate(below, scale_factor=2, mode=conv.upsampling)), dim=1)
    mode = "reflect" if conv.padding_mode == "reflect" else "constant"
    return functional.conv3d(functional.pad(both, (1,) * 6, mode=mode), conv.weight, conv.bias)


def example(layout: str, dtype: torch.dtype, shape=(3, 2, 4), **options) -> tuple[Tensor, Tensor, SkipConv3x3x3]:
    """Create a non-cubic volume with channel counts that are not powers of two."""
    torch.manual_seed(0)
    conv = SkipConv3x3x3(3, 5, 4, **{"bias": True, "padding": "reflect", "upsampling": "nearest"} | options)
    conv = conv.to(dtype).to(memory_format=LAYOUTS[layout])
    skip, below = draw(2, 3, *(2 * n for n in shape), dtype=dtype), draw(2, 5, *shape, dtype=dtype, seed=1)
    return *(x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_() for x in (skip, below)), conv


def gradients(found: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(found, of, draw(*found.shape, dtype=found.dtype, seed=2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("in_rows", [True, False])
def test_equals_the_plain_convolution(layout, padding, bias, shape, dtype, in_rows, monkeypatch):
    """Compare by rows, as on a CPU, and all at once, as on a GPU.

    Convolutions of doubles on a CPU are not channels-last.
    """
    if not in_rows:
        monkeypatch.setattr(subpixel, "_AddRows", None)
        monkeypatch.setattr(subpixel, "layout_of", lambda x: torch.contiguous_format)
    skip, below, conv = example(layout, dtype, shape, padding=padding, bias=bias)
    found, expected = conv(skip, below), plain(skip, below, conv)
    exact = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, expected, **exact)
    assert found.stride() == expected.stride()
    inputs = (skip, below, *conv.parameters())
    for ours, theirs in zip(gradients(found, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, **exact)


def test_is_as_accurate_as_the_plain_one_in_bfloat16():
    skip, below, conv = example("channels last", torch.float32, (6, 4, 5))
    exact = plain(skip.double(), below.double(), conv.double())
    conv.float()
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = conv(skip, below), plain(skip, below, conv)
    assert found.dtype == rounded.dtype == torch.bfloat16
    errors = [(each - exact).square().mean().sqrt() / exact.square().mean().sqrt() for each in (found, rounded)]
    assert errors[0] < 1.5 * errors[1] and errors[0] < 0.01


def test_trilinear_upsampling_and_small_grids_take_the_plain_way(monkeypatch):
    for options, least in (({"upsampling": "trilinear"}, 1), ({}, 4096)):
        monkeypatch.setattr(convolutions, "COARSE_VOXELS", least)
        skip, below, conv = example("channels last", torch.float64, **options)
        torch.testing.assert_close(conv(skip, below), plain(skip, below, conv), rtol=1e-12, atol=1e-13)


def test_gradients_of_first_and_second_order():
    weight = draw(2, 2, 3, 3, 3, seed=3).requires_grad_()
    to, below = draw(1, 2, 4, 2, 2).requires_grad_(), draw(1, 2, 2, 1, 1, seed=1).requires_grad_()

    def added(to: Tensor, below: Tensor, weight: Tensor) -> Tensor:
        return add_upsampled_convolution(to * 1, below, weight, padding="reflect")

    assert torch.autograd.gradcheck(added, (to, below, weight))
    assert torch.autograd.gradgradcheck(added, (to, below, weight))


def test_every_window_has_its_outputs_in_place():
    """Fill windows with the index of their output: 2i for the even phase, 2i - 1 for the odd."""
    index = torch.arange(4)
    even_odd = torch.stack((2 * index, 2 * index - 1)).double()
    x, y, z = (
        even_odd[phase] for phase in ((slice(None), None, None), (None, slice(None), None), (None, None, slice(None)))
    )
    names = x[..., :, None, None] * 10000 + y[..., None, :, None] * 100 + z[..., None, None, :]
    found = interleave(names.reshape(1, 8, 4, 4, 4))[0, 0]
    fine = torch.arange(6).double()
    assert torch.equal(found, fine[:, None, None] * 10000 + fine[:, None] * 100 + fine)


def test_without_gradients_no_fine_volume_is_made_but_the_output():
    skip, below, conv = example("channels last", torch.float32, (4, 6, 5))
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        conv(skip, below)
    assert not {"aten::cat", "aten::upsample_nearest3d"} & {event.name for event in seen.events()}


def test_one_graph_for_compilers_and_tracers():
    skip, below, conv = example("channels last", torch.float64)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    expected = plain(skip, below, conv)
    found = compiled(skip, below)
    torch.testing.assert_close(found, expected)
    inputs = (skip, below, *conv.parameters())
    for ours, theirs in zip(gradients(found, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    traced = torch.jit.trace(conv, (skip, below))
    torch.testing.assert_close(traced(skip, below), expected)
