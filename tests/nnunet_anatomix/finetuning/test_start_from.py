"""Transfer of pretrained weights into the segmentation network: all tensors, or an error."""

from __future__ import annotations

import pytest
import torch

from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.recipe import Recipe
from nnunet_anatomix.finetuning.transfer import load_initial_weights, start_from
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import load_weights, save_weights
from pretraining.common.errors import InputError


def test_only_the_head_stays_random(weights_file):
    weights, net = load_weights(weights_file), AnatomixNetwork(1, 3)
    report = start_from(weights, net, 1)
    assert (
        report.missing == ("decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias")
        and not report.unexpected
        and not report.adapted
    )
    assert len(report.loaded) == len(weights.state)
    assert all(torch.equal(tensor, net.backbone.state_dict()[name]) for name, tensor in weights.state.items())


def test_equal_channels_give_the_output_of_one(weights_file):
    weights, x = load_weights(weights_file), torch.rand(1, 1, 32, 32, 32)
    one, three = AnatomixNetwork(1, 2), AnatomixNetwork(3, 2)
    start_from(weights, one, 1)
    report = start_from(weights, three, 3)
    assert report.adapted == {"backbone.stem.conv.weight": "1 input channel spread over 3 image channels, divided by 3"}
    torch.testing.assert_close(three.backbone(x.expand(-1, 3, -1, -1, -1)), one.backbone(x), atol=1e-4, rtol=1e-4)


def test_a_cascade_first_ignores_the_labels_of_the_previous_stage(weights_file):
    weights, images = load_weights(weights_file), torch.rand(1, 2, 32, 32, 32)
    alone, cascade = AnatomixNetwork(2, 2), AnatomixNetwork(5, 2)
    start_from(weights, alone, 2)
    report = start_from(weights, cascade, 2)
    assert "over 2 image channels, divided by 2; 3 beyond the image channels at 0" in str(report)
    labels = torch.randint(0, 2, (1, 3, 32, 32, 32)).float()
    torch.testing.assert_close(
        cascade.backbone(torch.cat((images, labels), 1)), alone.backbone(images), atol=1e-4, rtol=1e-4
    )


def test_a_backbone_of_several_channels_starts_a_cascade(tmp_path):
    config = UNetConfig(width=2, out_channels=2, in_channels=2)
    save_weights(tmp_path / "two.safetensors", UNet(config).state_dict(), config, {})
    weights, net = load_weights(tmp_path / "two.safetensors"), AnatomixNetwork(3, 2, width=2, out_channels=2)
    report = start_from(weights, net, 2)
    assert report.adapted == {"backbone.stem.conv.weight": "1 beyond the image channels at 0"}
    stem = net.backbone.stem.conv.weight
    assert torch.equal(stem[:, :2], weights.state["stem.conv.weight"]) and not stem[:, 2].any()
    with pytest.raises(InputError, match="shape"):
        start_from(weights, AnatomixNetwork(3, 2, width=2, out_channels=2), 3)


def test_another_architecture_is_refused_and_nothing_is_copied(weights_file):
    net = AnatomixNetwork(1, 2, width=8)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match="shape"):
        start_from(load_weights(weights_file), net, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_weights_file_changed_after_planning_is_refused(weights_file, tmp_path, monkeypatch):
    monkeypatch.delenv("ANATOMIX_WEIGHTS", raising=False)
    recipe = Recipe(weights=str(weights_file), sha256=load_weights(weights_file).sha256)
    assert load_initial_weights(recipe)[1].sha256 == recipe.sha256
    other = tmp_path / "other.safetensors"
    save_weights(other, UNet().state_dict(), UNetConfig(), {})
    with pytest.raises(InputError, match="has changed since the plan was made"):
        load_initial_weights(Recipe(weights=str(other), sha256=recipe.sha256))
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(other))
    assert load_initial_weights(recipe)[0] == str(other)


@pytest.mark.parametrize("content", [None, b"", b"not a tensor file"])
def test_missing_and_damaged_weights_are_refused_in_one_line(content, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(path))
    with pytest.raises(InputError, match=r"weights\.safetensors") as caught:
        load_initial_weights(Recipe())
    assert "\n" not in str(caught.value)
