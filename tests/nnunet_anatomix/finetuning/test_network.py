"""Segmentation network: patches of any size, any intensity scale, deep supervision."""

from __future__ import annotations

import pydoc
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from nnunet_anatomix.finetuning import network as module
from nnunet_anatomix.finetuning.network import AnatomixNetwork, padding_margins, pooling_strides, rescale_channels
from pretraining.common.errors import InputError

SMALL = {"width": 4, "out_channels": 4}


@pytest.fixture
def float32(monkeypatch):
    """Switch bfloat16 off, so that small differences are visible."""
    monkeypatch.setattr(module, "reduced_precision", lambda device: nullcontext())


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 17), (40, 56, 40), (64, 32, 48), (33, 2, 95)])
def test_any_patch_size_gives_logits_of_its_size(shape):
    logits = AnatomixNetwork(2, 3, **SMALL)(torch.randn(2, 2, *shape))
    assert logits.shape == (2, 3, *shape)
    assert logits.dtype == torch.float32 and logits.isfinite().all()


@pytest.mark.parametrize("side, total", [(1, 31), (31, 1), (32, 0), (33, 15), (40, 8), (48, 0)])
def test_margins_reach_the_next_multiple_and_the_smallest_side(side, total):
    ((before, after),) = padding_margins((side,), 16, 32)
    assert before + after == total and 0 <= after - before <= 1


@pytest.mark.parametrize("shape", [(40, 33, 17), (1, 5, 64)])
def test_logits_are_aligned_with_their_voxels(shape):
    net = AnatomixNetwork(1, 1, out_channels=1)
    net.backbone.features = lambda x, taps: {"output": x}
    torch.nn.init.ones_(net.decoder.seg_layers[0].weight)
    torch.nn.init.zeros_(net.decoder.seg_layers[0].bias)
    x = torch.randn(2, 1, *shape)
    assert torch.equal(net(x), rescale_channels(x))


def test_scale_and_offset_of_a_channel_do_not_matter(float32):
    net = AnatomixNetwork(2, 3, **SMALL).eval()
    x = torch.rand(2, 2, 32, 32, 48)
    gain, offset = torch.tensor([3.0, 200.0]).view(1, 2, 1, 1, 1), torch.tensor([-7.0, 1000.0]).view(1, 2, 1, 1, 1)
    torch.testing.assert_close(net(x * gain + offset), net(x), atol=1e-3, rtol=1e-3)


def test_rescaling_is_per_sample_and_channel_and_survives_constants():
    x = torch.rand(2, 3, 4, 5, 6) * torch.arange(1, 7).view(2, 3, 1, 1, 1) - 9
    x[1, 1], x[1, 2] = 1.0, -4.0
    scaled = rescale_channels(x)
    assert scaled.amin() == 0 and scaled.isfinite().all()
    assert torch.equal(scaled.amax((2, 3, 4)), torch.tensor([[1.0, 1, 1], [1, 1, 0]]))
    one_hot = (x > 0).float()
    assert torch.equal(rescale_channels(one_hot), one_hot)


def test_plans_find_the_network_by_its_dotted_path():
    assert pydoc.locate("nnunet_anatomix.finetuning.network.AnatomixNetwork") is AnatomixNetwork


def test_without_deep_supervision_there_is_one_head_whatever_stock_code_switches():
    net = AnatomixNetwork(1, 2, **SMALL)
    net.decoder.deep_supervision = True
    assert net(torch.rand(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)
    assert [name for name in net.state_dict() if "seg_layers" in name] == [
        "decoder.seg_layers.0.weight",
        "decoder.seg_layers.0.bias",
    ]


def test_deep_supervision_gives_logits_at_the_scales_of_the_plans_strides():
    strides = pooling_strides(4)
    net = AnatomixNetwork(1, 2, True, strides, **SMALL)
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]
    x = torch.rand(1, 1, 32, 48, 64)
    logits = net(x)
    assert [tuple(level.shape[2:]) for level in logits] == [
        tuple(np.round(np.array(x.shape[2:]) * scale).astype(int)) for scale in scales
    ]
    sum(level.square().mean() for level in logits).backward()
    unused = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not unused
    net.eval().decoder.deep_supervision = False
    with torch.no_grad():
        plain = AnatomixNetwork(1, 2, False, strides, **SMALL).eval()
        plain.load_state_dict(net.state_dict())
        assert torch.equal(plain(x), net(x))


def test_loading_stays_strict():
    net, other = AnatomixNetwork(1, 2, **SMALL), AnatomixNetwork(1, 2, True, **SMALL).state_dict()
    with pytest.raises(RuntimeError, match=r"seg_layers\.0\.bias"):
        net.load_state_dict({name: tensor for name, tensor in other.items() if not name.endswith("seg_layers.0.bias")})
    with pytest.raises(RuntimeError, match=r"seg_layers\.1"):
        AnatomixNetwork(1, 2, True, **SMALL).load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: AnatomixNetwork(1, 2, True, **SMALL)(torch.rand(1, 1, 40, 56, 40)), "multiples of 16"),
        (lambda: AnatomixNetwork(1, 2, strides=[[1, 1, 1], [1, 2, 2]]), "strides must be"),
        (lambda: AnatomixNetwork(1, 2, feature_norm="batch"), "feature_norm"),
        (lambda: AnatomixNetwork(1, 2, depth=4), "unknown keys"),
        (lambda: AnatomixNetwork(1, 2, pooling="median"), "pooling"),
        (lambda: AnatomixNetwork(1, 2, **SMALL)(torch.rand(1, 1, 32, 32)), "3D"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(build, message):
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
