"""Every shipped plan template builds a network that its published weights fit."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch

from nnunet_anatomix.finetuning import network as module
from nnunet_anatomix.finetuning.network import AnatomixNetwork, backbone_config, normalize_voxelwise, rescale_channels
from nnunet_anatomix.finetuning.plan_template import load_template
from nnunet_anatomix.finetuning.planning import anatomix_plan, write_plan
from nnunet_anatomix.finetuning.transfer import start_from
from pretraining.backbone.published import from_published
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError
from tests.nnunet_anatomix.finetuning.test_planning import STOCK


@pytest.mark.parametrize(
    "name, published, parameters",
    [("anatomix_unet16", "anatomix", 5_899_344), ("anatomix_dev", "anatomix_dev", 94_369_568)],
)
def test_a_template_fits_the_published_network(name, published, parameters, golden):
    template = load_template(name)
    keys = json.loads((golden / f"{published}_published_keys.json").read_text())
    tensors = {
        key: torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device="meta")
        for key, (shape, dtype) in keys.items()
    }
    _, architecture = from_published(tensors)
    # The same check as in planning.
    assert architecture == template.backbone
    with torch.device("meta"):
        net = AnatomixNetwork(1, 3, deep_supervision=True, **template.configuration["architecture"]["arch_kwargs"])
    assert sum(parameter.numel() for parameter in net.backbone.parameters()) == parameters
    assert len(net.decoder.seg_layers) == template.backbone.poolings


def test_the_published_style_of_the_large_network_is_transferred(golden, monkeypatch):
    """Use the golden file, a small network of the same style."""
    monkeypatch.setattr(module, "reduced_precision", lambda device: nullcontext())
    weights = load_weights(golden / "unet_instance_avg_trilinear.pth")
    large = load_template("anatomix_dev").configuration["architecture"]["arch_kwargs"]
    sizes = {name: getattr(weights.architecture, name) for name in ("width", "poolings", "out_channels")}
    kwargs = {name: value for name, value in large.items() if name != "strides"} | sizes
    assert backbone_config(kwargs) == weights.architecture
    net = AnatomixNetwork(2, 3, **kwargs).eval()
    report = start_from(weights, net, 2)
    assert len(report.loaded) + len(report.adapted) == len(weights.state) and not report.unexpected
    x = torch.rand(1, 1, 64, 64, 96)
    with torch.no_grad():
        expected = net.decoder.seg_layers[0](normalize_voxelwise(weights.network()(rescale_channels(x))))
        torch.testing.assert_close(net(x.expand(-1, 2, -1, -1, -1)), expected, atol=1e-3, rtol=1e-3)


def test_voxelwise_normalization_leaves_the_direction():
    features = torch.randn(2, 5, 3, 4, 6) * 100
    normalized = normalize_voxelwise(features)
    torch.testing.assert_close(normalized.square().mean(1), torch.ones(2, 3, 4, 6))
    torch.testing.assert_close(torch.cosine_similarity(normalized, features), torch.ones(2, 3, 4, 6))
    constant = torch.zeros(1, 5, 2, 2, 2, requires_grad=True)
    normalize_voxelwise(constant).sum().backward()
    assert constant.grad.isfinite().all()


def test_the_large_network_is_planned_within_memory_on_its_own_grid():
    plan = anatomix_plan(STOCK, load_template("anatomix_dev"), "ourPlans", memory_target_gb=8.0, classes=3)
    configuration = plan["configurations"]["3d_fullres"]
    assert (
        all(side % 32 == 0 and side >= 64 for side in configuration["patch_size"]) and configuration["batch_size"] >= 1
    )
    assert plan["anatomix"]["weights"] is None


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"architecture": "anatomix_vit"},
            r"no architecture 'anatomix_vit'; there are \['anatomix_dev', 'anatomix_unet16'\]",
        ),
        ({"architecture": "../setup"}, "no architecture"),
        ({"architecture": "anatomix_dev"}, "use --weights with a file"),
    ],
)
def test_an_architecture_without_template_or_weights_is_refused_in_one_line(options, message, nnunet):
    with pytest.raises(InputError, match=message) as caught:
        write_plan("42", **options)
    assert "\n" not in str(caught.value)


def test_weights_of_the_other_architecture_are_refused(nnunet, weights_file):
    with pytest.raises(InputError, match="this plan is for"):
        write_plan("42", architecture="anatomix_dev", weights=str(weights_file))
