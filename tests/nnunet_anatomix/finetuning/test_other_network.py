"""Other networks with a new head: their own features, any number of channels and any size."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets import AttentionUnet, SwinUNETR
from monai.networks.nets import UNet as MonaiUNet
from torch import nn

from nnunet_anatomix.finetuning import other_network
from nnunet_anatomix.finetuning.network import AnatomixNetwork, rescale_channels
from nnunet_anatomix.finetuning.other_network import OtherNetwork
from nnunet_anatomix.finetuning.other_size import measure_network
from nnunet_anatomix.finetuning.other_start import read_other
from nnunet_anatomix.finetuning.recipe import Recipe
from nnunet_anatomix.finetuning.schedule import ScheduleConfig, parameter_groups
from nnunet_anatomix.finetuning.transfer import load_initial_weights, start_from
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError

UNET = NetworkSpec(
    network="monai.networks.nets.UNet",
    kwargs={"spatial_dims": 3, "in_channels": 1, "out_channels": 6, "channels": [4, 8, 8], "strides": [2, 2]},
    state="unet.pth",
    multiple=4,
)
SWIN = NetworkSpec(
    network="monai.networks.nets.SwinUNETR",
    kwargs={"in_channels": 1, "out_channels": 3, "feature_size": 12, "depths": [1] * 4, "norm_name": "batch"},
    state="swin.pth",
    layer="decoder1",
    ignore=("out.",),
    multiple=32,
)


def other(spec: NetworkSpec, channels: int, inputs: int = 1, classes: int = 3) -> OtherNetwork:
    return OtherNetwork(inputs, classes, spec=asdict(spec), channels=channels).eval()


def weights_of(folder: Path, spec: NetworkSpec, net: nn.Module) -> Path:
    """Write the state of a network and its JSON file."""
    torch.save(net.state_dict(), folder / spec.state)
    path = folder / "net.json"
    path.write_text(json.dumps(asdict(spec)))
    return path


@pytest.fixture(scope="module")
def float32():
    """Let CPUs compute in float32, to compare with the networks themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_network, "reduced_precision", lambda device: nullcontext())
        yield


@pytest.fixture(scope="module")
def swin() -> SwinUNETR:
    torch.manual_seed(1)
    return SwinUNETR(**SWIN.kwargs).eval()


@torch.no_grad()
def test_the_head_replaces_the_networks_own(tmp_path, swin, float32):
    """With the weights of the removed head in the new one, the output is that of the network."""
    net = other(SWIN, 12)
    report = start_from(read_other(weights_of(tmp_path, SWIN, swin)), net, 1)
    assert report.missing == ("decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias") and not report.unexpected
    assert not any(name.startswith("network.out.") for name, _ in net.named_parameters())
    net.decoder.seg_layers[0].load_state_dict(swin.out.conv.conv.state_dict())
    x = torch.rand(1, 1, 32, 32, 32) * 300 - 100
    torch.testing.assert_close(net(x), swin(rescale_channels(x)), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_equal_channels_give_the_output_of_one_and_labels_of_a_cascade_none(tmp_path, swin, float32):
    weights = read_other(weights_of(tmp_path, SWIN, swin))
    one, cascade = other(SWIN, 12), other(SWIN, 12, inputs=4)
    start_from(weights, one, 1)
    report = start_from(weights, cascade, 2)
    assert set(report.adapted) == {
        "network.swinViT.patch_embed.proj.weight",
        "network.encoder1.layer.conv1.conv.weight",
        "network.encoder1.layer.conv3.conv.weight",
    }
    cascade.decoder.load_state_dict(one.decoder.state_dict())
    x, labels = torch.rand(1, 1, 32, 32, 32), torch.rand(1, 2, 32, 32, 32)
    torch.testing.assert_close(cascade(torch.cat((x, x, labels), 1)), one(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_patches_of_any_size_are_padded_and_inputs_scaled(float32):
    torch.manual_seed(0)
    for spec in (UNET, replace(UNET, input_range=(-1.0, 1.0)), replace(UNET, standardize=True)):
        net, seen = other(spec, 6), []
        net.network.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        assert net(torch.rand(2, 1, 5, 11, 8) * 9).shape == (2, 3, 5, 11, 8)
        assert seen[0].shape[2:] == (8, 12, 8)
        if spec.standardize:
            std, mean = torch.std_mean(seen[0], (1, 2, 3, 4))
            torch.testing.assert_close((std, mean), (torch.ones(2), torch.zeros(2)), atol=1e-5, rtol=0)
        else:
            assert (float(seen[0].min()), float(seen[0].max())) == spec.input_range
    assert torch.isfinite(other(replace(UNET, standardize=True), 6)(torch.full((1, 1, 8, 8, 8), 3.0))).all()


def test_a_size_limit_and_missing_deep_supervision_are_said(float32):
    limited = other(replace(UNET, max_side=8), 6)
    with pytest.raises(InputError, match=r"at most 8 voxels per side, found \(12, 8, 8\)"):
        limited(torch.rand(1, 1, 12, 8, 8))
    with pytest.raises(InputError, match="no deep supervision; train with -tr AnatomixTrainer"):
        OtherNetwork(1, 2, True, spec=asdict(UNET), channels=6)
    with pytest.raises(InputError, match="no convolution of one input channel"):
        other(replace(UNET, kwargs=UNET.kwargs | {"in_channels": 2}), 6, inputs=3)


class FixedSize(nn.Module):
    """Network that is built for one input size."""

    def __init__(self, img_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, 4, 1)
        self.positions = nn.Parameter(torch.zeros(4, *img_size))

    def forward(self, x):
        return self.embed(x) + self.positions


def test_a_network_of_one_size_gets_the_size_of_the_patch(float32):
    spec = NetworkSpec(network=f"{__name__}.FixedSize", state="x", size_argument="img_size", multiple=4)
    net = OtherNetwork(1, 2, spec=asdict(spec), channels=4, patch_size=[8, 12, 4])
    assert net.network.positions.shape == (4, 8, 12, 4) and net(torch.rand(1, 1, 8, 12, 4)).shape == (1, 2, 8, 12, 4)


def test_removed_parts_leave_no_parameter_without_gradient(float32):
    """Distributed training stops at parameters that get no gradient."""
    net = other(SWIN, 12)
    net(torch.rand(1, 1, 32, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("spec", [
    UNET,
    replace(
        UNET,
        network="monai.networks.nets.AttentionUnet",
        kwargs={"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]},
        multiple=2,
    ),
])  # fmt: skip
def test_the_memory_of_a_small_cube_predicts_that_of_a_patch(spec):
    size = measure_network(spec)
    net = other(spec, size.channels).train()
    assert size.parameters == sum(parameter.numel() for parameter in net.network.parameters())
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    x = torch.rand(2, 1, 64, 48, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        net.network(x)
    measured = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    assert size.bytes_per_voxel * x.numel() == pytest.approx(measured, rel=0.1)


def test_the_networks_of_this_test_are_monais():
    assert isinstance(other(UNET, 6).network, MonaiUNet) and AttentionUnet.__name__ == "AttentionUnet"


def test_new_parts_stay_random_and_nothing_else(tmp_path):
    torch.manual_seed(2)
    net = MonaiUNet(**UNET.kwargs)
    encoder = {name: value for name, value in net.state_dict().items() if not name.startswith("model.2.")}
    path = weights_of(tmp_path, UNET, net)
    torch.save(encoder, tmp_path / UNET.state)
    with pytest.raises(InputError, match=r"the weights lack .* the first is 'network\.model\.2\."):
        start_from(read_other(path), other(UNET, 6), 1)
    path.write_text(json.dumps(asdict(replace(UNET, new=("model.2.",)))))
    target = other(replace(UNET, new=("model.2.",)), 6)
    report = start_from(read_other(path), target, 1)
    assert {name.split(".")[1] + name.split(".")[2] for name in report.missing} == {"seg_layers0", "model2"}
    assert all(torch.equal(target.network.state_dict()[name], value) for name, value in encoder.items())


def test_weights_and_plan_of_different_networks_are_refused(tmp_path, weights_file, monkeypatch):
    path = weights_of(tmp_path, UNET, MonaiUNet(**UNET.kwargs))
    theirs, ours = read_other(path), load_weights(weights_file)
    with pytest.raises(InputError, match=r"weights are for monai\.networks\.nets\.UNet, the plan is for our backbone"):
        start_from(theirs, AnatomixNetwork(1, 2), 1)
    with pytest.raises(InputError, match=r"weights are for our backbone, the plan is for monai\.networks\.nets\.UNet"):
        start_from(ours, other(UNET, 6), 1)
    with pytest.raises(InputError, match=r"other settings than the plan.*plan again with --weights"):
        start_from(theirs, other(replace(UNET, input_range=(0.0, 2.0)), 6), 1)
    start_from(theirs, other(replace(UNET, state="moved.pth", spacing_mm=(1.0, 1.0, 1.0)), 6), 1)
    monkeypatch.delenv("ANATOMIX_WEIGHTS", raising=False)
    with pytest.raises(InputError, match="has changed since the plan was made"):
        load_initial_weights(Recipe(weights=str(path), sha256="0" * 64))


def test_training_runs_no_code_that_a_file_of_the_hub_names(monkeypatch):
    monkeypatch.setenv("ANATOMIX_WEIGHTS", "hf://somebody/nets/net.json@main")
    with pytest.raises(InputError, match=r"names code that training would run, expected a local file"):
        load_initial_weights(Recipe())
    with pytest.raises(InputError, match=r"is a function, expected a subclass of torch\.nn\.Module"):
        other(replace(UNET, network="monai.networks.nets.resnet10", kwargs={}), 1)


def test_the_head_can_be_trained_first_but_no_encoder_frozen():
    net = other(UNET, 6)
    groups = parameter_groups(net, ScheduleConfig(trained="head_first"), 1e-3)
    assert [group["stage"] for group in groups] == ["head", "network"]
    assert len(groups[0]["params"]) == 2
    with pytest.raises(InputError, match="frozen_encoder needs our backbone"):
        parameter_groups(net, ScheduleConfig(trained="frozen_encoder"), 1e-3)
