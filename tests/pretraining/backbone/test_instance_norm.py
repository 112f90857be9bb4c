"""Instance normalization equals PyTorch's, also for converted batch-norm weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretraining.backbone.initialization import build
from pretraining.backbone.instance_norm import InstanceNorm
from pretraining.backbone.statistics import with_statistics
from pretraining.backbone.transfer import transfer
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import Weights, load_weights, save_weights
from pretraining.common.errors import InputError

SMALL = {"width": 4, "poolings": 2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(config: UNetConfig) -> UNet:
    """Build a network whose normalizations are not identities."""
    net = build(lambda: UNet(config), generator())
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if ".norm." in name and tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator(len(name))))
    return net


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
def test_it_equals_pytorch_and_keeps_the_layout(affine, batch, layout):
    plain, own = nn.InstanceNorm3d(6, affine=affine).double(), InstanceNorm(6, affine=affine).double()
    if affine:
        nn.init.normal_(plain.weight, generator=generator(1))
        nn.init.normal_(plain.bias, generator=generator(2))
    own.load_state_dict(plain.state_dict())
    x = torch.randn((batch, 6, 4, 5, 7), generator=generator(), dtype=torch.float64).contiguous(memory_format=layout)
    found, gradients = [], []
    for norm in (plain, own):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        found.append(norm(given))
        gradients.append(torch.autograd.grad((found[-1] ** 3).sum(), (given, *norm.parameters())))
    torch.testing.assert_close(found[1], found[0])
    assert found[1].is_contiguous(memory_format=layout)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_scan_is_normalized_by_itself_in_training_and_evaluation_alike():
    net = trained(UNetConfig(norm="instance", norm_affine=True, **SMALL))
    scans = torch.rand((2, 1, 16, 8, 12), generator=generator())
    together = net.train()(scans)
    torch.testing.assert_close(together, torch.cat([net.eval()(scan[None]) for scan in scans]), atol=1e-3, rtol=1e-3)


def test_own_statistics_are_batch_normalization_of_one_scan_in_training():
    net = trained(UNetConfig(**SMALL))
    own = with_statistics(Weights(net.config, net.state_dict()), "own")
    assert own.architecture == UNetConfig(norm="instance", norm_affine=True, **SMALL)
    scan = torch.rand((1, 1, 16, 8, 12), generator=generator())
    torch.testing.assert_close(own.network()(scan), net.train()(scan), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(own.network()(scan), net.eval()(scan), atol=1e-2)


def test_running_statistics_and_instance_norm_stay_as_they_are():
    for config in (UNetConfig(**SMALL), UNetConfig(norm="instance", **SMALL)):
        weights = Weights(config, UNet(config).state_dict())
        assert with_statistics(weights, "running") is weights
    assert with_statistics(weights, "own") is weights


def test_affine_instance_norm_has_scale_and_shift_in_place_of_the_bias_and_is_kept_on_disk(tmp_path):
    config = UNetConfig(norm="instance", norm_affine=True, **SMALL)
    state = trained(config).state_dict()
    assert {name.split(".")[-2] for name in state if name.endswith("bias")} == {"norm"}
    save_weights(tmp_path / "a.safetensors", state, config, {})
    loaded = load_weights(tmp_path / "a.safetensors")
    assert loaded.architecture == config
    transfer(loaded.state, UNet(config))
    with pytest.raises(InputError):
        transfer(loaded.state, UNet(UNetConfig(norm="instance", **SMALL)))


def test_frozen_statistics_stay_those_of_evaluation_in_training_and_let_scale_and_shift_learn():
    net = trained(UNetConfig(**SMALL)).eval()
    scan = torch.rand((2, 1, 16, 8, 12), generator=generator())
    expected, before = net(scan).detach(), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.freeze_statistics().freeze_statistics().train()
    output = net(scan)
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    assert net.training and net.stem.norm.weight.grad.any() and net.stem.norm.bias.grad.any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_batch_norm_with_a_choice_of_affine_is_refused():
    with pytest.raises(ValueError, match="norm_affine"):
        UNetConfig(norm_affine=True)
