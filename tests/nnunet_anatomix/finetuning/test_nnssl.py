"""Weights in nnssl's format, as nnU-Net's main branch reads them, and OpenMind's read here.

The contract of the reader is that of MIC-DKFZ/nnUNet, branch master, ``experiment_planning/
like_nnssl.py`` (commit 202f6ba) and ``training/nnUNetTrainer/pretraining/pretrainedTrainer.py``
(commit 3605eea): which keys are read, how the network is built, and which tensors are loaded.
"""

from __future__ import annotations

from pathlib import Path

import dynamic_network_architectures.architectures.primus as primus_module
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from nnunet_anatomix.finetuning import openmind
from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.nnssl_network import AnatomixPlainConvUNet
from nnunet_anatomix.finetuning.other_network import OtherNetwork
from nnunet_anatomix.finetuning.other_size import measure_network
from nnunet_anatomix.finetuning.other_start import read_other, start_other
from nnunet_anatomix.finetuning.start_kind import is_other
from pretraining.backbone import nnssl
from pretraining.backbone.nnssl import export_nnssl
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import export_published, load_weights, save_weights
from pretraining.common.config import to_dict
from pretraining.common.errors import InputError


def read_like_nnunet(path: Path, channels: int, classes: int) -> nn.Module:
    """Build and fill the network as nnU-Net does; any missing or unexpected tensor is an error."""
    checkpoint = torch.load(path, weights_only=True)
    plan, weights = checkpoint["nnssl_adaptation_plan"], checkpoint["network_weights"]
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["spacing"] is None and len(configuration["patch_size"]) == 3
    assert len(plan["recommended_downstream_patchsize"]) == 3 and plan["key_to_lpe"] is None
    architecture = plan["architecture_plans"]
    name = architecture["arch_class_name"]
    assert name.endswith(("PlainConvUNet", "ResidualEncoderUNet")), "the only names that nnU-Net builds from a plan"
    net = get_network_from_plans(
        name, architecture["arch_kwargs"], architecture["arch_kwargs_requiring_import"], channels, classes,
        allow_init=True, deep_supervision=False,
    )  # fmt: skip
    assert plan["key_to_stem"] not in weights, "nnU-Net would look for the stem within the encoder"

    def part(prefix: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}

    def without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace(prefix, "").removeprefix("."): tensor for name, tensor in tensors.items()}

    stem = part(plan["key_to_stem"])
    if channels > plan["pretrain_num_input_channels"]:
        first = stem[f"{plan['keys_to_in_proj'][0]}.weight"].repeat(1, channels, 1, 1, 1) / channels
        stem |= {f"{key}.weight": first for key in plan["keys_to_in_proj"]}
    assert getattr(net, "key_to_lpe", None) is None
    net.get_submodule(net.key_to_encoder).load_state_dict(without(plan["key_to_encoder"], part(plan["key_to_encoder"])))
    net.get_submodule(net.key_to_stem).load_state_dict(without(plan["key_to_stem"], stem))
    return net


@pytest.mark.parametrize("config", [
    UNetConfig(width=4, poolings=2, out_channels=5),
    UNetConfig(width=4, poolings=3, norm="instance", pooling="average", upsampling="trilinear", norm_eps=1e-2),
])  # fmt: skip
@torch.no_grad()
def test_nnunet_starts_from_our_whole_backbone(tmp_path, config):
    torch.manual_seed(6)
    save_weights(tmp_path / "ours.safetensors", UNet(config).state_dict(), config, {})
    weights = load_weights(tmp_path / "ours.safetensors")
    export_nnssl(tmp_path / "ours.pth", weights)
    x = torch.rand(1, 1, 32, 32, 32)
    for channels in (1, 3):
        net = read_like_nnunet(tmp_path / "ours.pth", channels, 2).eval()
        assert isinstance(net, AnatomixPlainConvUNet) and net.backbone.config.poolings == config.poolings
        assert net._feature_norm == {"batch": "none", "instance": "voxelwise"}[config.norm]
        expected = weights.network()(x)
        torch.testing.assert_close(net.backbone(x.expand(-1, channels, -1, -1, -1)), expected, atol=1e-4, rtol=1e-4)
    plain = AnatomixNetwork(3, 2, **{k: v for k, v in to_dict(config).items() if k != "in_channels"})
    assert list(net.state_dict()) == list(plain.state_dict()), "stock checkpoints stay those of our network"


def test_the_class_that_the_file_names_is_ours():
    assert f"{AnatomixPlainConvUNet.__module__}.{AnatomixPlainConvUNet.__qualname__}" == nnssl.NETWORK
    assert nnssl.PLAN == openmind.NNSSL_PLAN


def nnssl_file(folder: Path, net: nn.Module, architecture: str, patch: list[int], **changes: object) -> Path:
    """Write a checkpoint as nnssl's converter writes it, with a decoder of the pretraining."""
    plan = {
        "architecture_plans": {"arch_class_name": architecture, "arch_kwargs": None},
        "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [1, 1, 1], "patch_size": patch}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [160, 160, 160],
        "key_to_encoder": net.key_to_encoder,
        "key_to_stem": net.key_to_stem,
        "keys_to_in_proj": list(net.keys_to_in_proj),
        "key_to_lpe": net.key_to_lpe if hasattr(net, "key_to_lpe") else None,
    }  # fmt: skip
    path = folder / "checkpoint_final.pth"
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.save(
        {"network_weights": state, "nnssl_adaptation_plan": plan | changes, "citations": [{"name": "MAE"}]}, path
    )
    return path


@pytest.fixture
def small(monkeypatch):
    """Shrink the networks; their tensors keep their names."""
    sizes = {"features_per_stage": (4, 8, 8), "n_blocks_per_stage": (1, 2, 1)}
    monkeypatch.setattr(openmind, "RES_ENC_L", sizes)
    monkeypatch.setitem(primus_module._PRIMUS_CONFIGS, "M", {"eva_depth": 2, "eva_numheads": 2, "embed_dim": 36})


def started(path: Path, patch: list[int]) -> tuple[OtherNetwork, object]:
    weights = read_other(path)
    size = measure_network(weights.spec)
    patch_size = patch if weights.spec.size_argument else None
    net = OtherNetwork(1, 3, spec=to_dict(weights.spec), channels=size.channels, patch_size=patch_size).eval()
    return net, start_other(weights, net, 1)


@torch.no_grad()
def test_res_enc_l_starts_with_encoder_and_stem(tmp_path, small):
    torch.manual_seed(7)
    source = openmind.ResEncL(1, 1, **{name: list(value) for name, value in openmind.RES_ENC_L.items()})
    path = nnssl_file(tmp_path, source, "ResEncL", [160] * 3)
    assert is_other(path)
    net, report = started(path, [16, 16, 16])
    own = net.network.state_dict()
    for name, tensor in source.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(own[name], tensor), name
    assert all(name.startswith(("network.decoder.", "decoder.seg_layers.")) for name in report.missing)
    assert not any("seg_layers" in name for name in own), "its own heads are gone"
    # In the decoder, the encoder is the same module, so it starts from the same tensors.
    assert net.network.decoder.encoder is net.network.encoder
    assert net(torch.rand(1, 1, 16, 24, 16)).shape == (1, 3, 16, 24, 16)


@torch.no_grad()
def test_primus_starts_with_positions_of_its_patch(tmp_path, small):
    torch.manual_seed(8)
    source = primus_module.PrimusM(1, 1, (8, 8, 8), input_shape=(32, 32, 32))
    ramp = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 4, 4, 36)  # rises along the first axis
    source.eva.pos_embed.data = ramp.reshape(1, 64, 36).clone()
    path = nnssl_file(tmp_path, source, "PrimusM", [32, 32, 32])
    net, report = started(path, [64, 32, 16])
    assert {name.split(".")[1] for name in report.missing} == {"up_projection", "mask_token", "seg_layers"}
    assert torch.equal(net.network.eva.blocks[1].attn.proj.weight, source.eva.blocks[1].attn.proj.weight)
    assert torch.equal(net.network.down_projection.proj.weight, source.down_projection.proj.weight)
    positions = net.network.eva.pos_embed.reshape(8, 4, 2, 36)
    assert (positions.diff(dim=0) >= 0).all() and positions[0].max() < 0.1 and positions[-1].min() > 0.9
    assert positions.diff(dim=1).abs().max() < 1e-6 > positions.diff(dim=2).abs().max()
    assert net(torch.rand(1, 1, 64, 32, 16)).shape == (1, 3, 64, 32, 16)
    same, _ = started(path, [32, 32, 32])
    assert torch.equal(same.network.eva.pos_embed, source.eva.pos_embed)


def test_files_that_are_not_nnssls_are_told_apart_and_others_refused(tmp_path, small, weights_file):
    published = tmp_path / "published.pth"
    export_published(published, load_weights(weights_file))
    (tmp_path / "text.pth").write_text("nnssl_adaptation_plan")
    assert not any(map(is_other, (published, weights_file, tmp_path / "text.pth", tmp_path / "none.pth")))
    source = openmind.ResEncL(1, 1, **{name: list(value) for name, value in openmind.RES_ENC_L.items()})
    for changes, message in (
        (
            {"architecture_plans": {"arch_class_name": "NoSkipResEncL"}},
            "expected the architecture ResEncL.*found NoSkip",
        ),
        ({"pretrain_num_input_channels": 2}, "one input channel, found .*2 input channels"),
        ({"key_to_stem": "net.stem"}, r"expected tensors 'net\.stem\.\*' of its stem"),
        ({"pretrain_plan": {}}, "expected nnssl's adaptation plan"),
    ):
        path = nnssl_file(tmp_path, source, "ResEncL", [160] * 3, **changes)
        with pytest.raises(InputError, match=message) as raised:
            read_other(path)
        assert "\n" not in str(raised.value)
