"""Padding by one voxel equals PyTorch's, forward and backward, in all layouts and precisions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.padding import pad_by_one

BORDERS = ("reflect", "replicate")
LAYOUTS = {"channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format}


def volume(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 4, 6, 7), (1, 1, 3, 2, 5), (1, 3, 2, 2, 2)])
def test_equals_torch(border, layout, dtype, shape):
    x = volume(*shape, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    padded, expected = pad_by_one(ours, border), functional.pad(theirs, (1,) * 6, mode=border)
    assert torch.equal(padded.double(), expected)
    gradient = volume(*expected.shape, dtype=dtype, seed=1)
    padded.backward(gradient)
    expected.backward(gradient.double())
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_keeps_the_layout(border, layout):
    x = volume(2, 5, 4, 6, 7).contiguous(memory_format=LAYOUTS[layout])
    assert pad_by_one(x, border).is_contiguous(memory_format=LAYOUTS[layout])
    cropped = x[..., 1:, :-2, :]
    assert pad_by_one(cropped, border).is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("border", BORDERS)
def test_gradients_of_first_and_second_order(border):
    x = volume(1, 2, 3, 2, 4).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pad_by_one(x, border), x)
    assert torch.autograd.gradgradcheck(lambda x: pad_by_one(x, border).square(), x)


def test_a_gradient_that_is_handed_in_is_left_alone():
    x = volume(1, 2, 3, 4, 5).requires_grad_()
    gradient = volume(1, 2, 5, 6, 7, seed=1)
    before = gradient.clone()
    pad_by_one(x, "reflect").backward(gradient)
    assert torch.equal(gradient, before)


def test_a_single_voxel_cannot_be_reflected():
    with pytest.raises(ValueError, match="at least 2 voxels"):
        pad_by_one(volume(1, 1, 4, 1, 4), "reflect")
    assert pad_by_one(volume(1, 1, 1, 1, 1), "replicate").shape == (1, 1, 3, 3, 3)


@pytest.mark.parametrize("border", BORDERS)
def test_compilers_and_tracers_take_it_in_one_graph(border):
    x = volume(1, 2, 3, 4, 5)
    compiled = torch.compile(lambda x: pad_by_one(x, border), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), pad_by_one(x, border))
    traced = torch.jit.trace(lambda x: pad_by_one(x, border), x)
    other = volume(1, 2, 4, 3, 6)
    assert torch.equal(traced(other), pad_by_one(other, border))
