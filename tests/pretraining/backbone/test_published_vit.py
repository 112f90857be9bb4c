"""Tests of the published vision transformer, on small networks of its layout."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from nnunet_anatomix.cli import main
from nnunet_anatomix.features.extract import extract_features
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from pretraining.backbone.external_weights import ExternalWeights, load_feature_weights
from pretraining.backbone.published_vit import build_published_vit
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError
from pretraining.imaging.grids import image_tensor
from pretraining.probing.judge import make_feature_extractors

primus = pytest.importorskip("dynamic_network_architectures.architectures.primus")

SIDE, WIDTH, HEADS, CHANNELS, REGISTERS = 16, 36, 6, 5, 3
PUBLISHED = {
    "embed_dim": 396,
    "eva_depth": 12,
    "eva_numheads": 6,
    "num_classes": 32,
    "input_shape": (128, 128, 128),
    "num_register_tokens": 8,
}
"""Sizes of ``anatomix-dev-vit``."""


def primus_of_layout(**changes) -> nn.Module:
    """Return a PrimusV2 with the published additions, written down here once more."""
    sizes = {
        "embed_dim": WIDTH,
        "eva_depth": 2,
        "eva_numheads": HEADS,
        "num_classes": CHANNELS,
        "input_shape": (SIDE,) * 3,
        "num_register_tokens": REGISTERS,
    } | changes
    net = primus.PrimusV2(input_channels=1, patch_embed_size=(8, 8, 8), init_values=0.1, scale_attn_inner=True, **sizes)
    for module in net.down_projection.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.eps = 1e-2
    for block in net.eva.blocks:
        block.attn.q_norm = nn.LayerNorm(sizes["embed_dim"] // sizes["eva_numheads"])
        block.attn.k_norm = nn.LayerNorm(sizes["embed_dim"] // sizes["eva_numheads"])
    return net.eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = primus_of_layout()
    for parameter in net.parameters():  # normalizations and scales as after a training
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


@pytest.fixture
def file(net, tmp_path, request) -> Path:
    prefix = getattr(request, "param", "")
    torch.save({prefix + name: tensor for name, tensor in net.state_dict().items()}, tmp_path / "anatomix-dev-vit.pth")
    return tmp_path / "anatomix-dev-vit.pth"


def scan(size: tuple[int, int, int] = (20, 16, 18), seed: int = 0) -> sitk.Image:
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    values[:, 4:12, 5:14] += 4
    return sitk.GetImageFromArray(values)


@torch.no_grad()
def theirs(net: nn.Module, x: Tensor) -> Tensor:
    features = net(x)
    return features - features.mean((2, 3, 4), keepdim=True)


@pytest.mark.parametrize("file", ["", "_orig_mod."], indirect=True, ids=["plain", "compiled"])
def test_features_are_those_of_the_published_computation(net, file):
    before = torch.get_rng_state()
    weights = load_feature_weights(str(file))
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(weights, ExternalWeights)
    assert (weights.architecture.out_channels, weights.architecture.max_side) == (CHANNELS, SIDE)
    x = torch.rand(1, 1, SIDE, SIDE, SIDE)
    with torch.no_grad():
        ours = weights.network()(x)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs(net, x), atol=1e-5, rtol=1e-5)


def test_features_of_a_scan_are_normalized_in_each_voxel(net, file):
    image = scan((SIDE, SIDE, SIDE))
    features = extract_features(image, load_feature_weights(str(file)), bf16=False)
    volume = image_tensor(image)
    expected = theirs(net, ((volume - volume.min()) / (volume.max() - volume.min()))[None, None])[0]
    expected = expected / expected.square().mean(0).sqrt()
    torch.testing.assert_close(features, expected, atol=1e-3, rtol=1e-3)


def test_scans_of_any_size_are_computed_in_windows(file):
    features = extract_features(scan((20, 10, 18)), load_feature_weights(str(file)), bf16=False)
    assert features.shape == (CHANNELS, 18, 10, 20) and features.isfinite().all()


def test_a_registration_compares_its_features(file):
    config = RegistrationConfig(
        init="none",
        descriptors=DescriptorConfig(mind=False, side=SIDE),
        convexadam=ConvexAdamConfig(grid_spacing=4, reach=2, iterations=(5,)),
    )
    shifted = scan()[2:, :, :]
    found = register(scan(), shifted, config=config, features=load_feature_weights(str(file)))
    assert found.displacement.isfinite().all() and found.displacement.abs().max() > 0.1


def test_judge_computes_its_features_next_to_a_random_unet(file):
    features = make_feature_extractors(load_feature_weights(str(file)), name="vit")
    image = image_tensor(scan((32, 33, 32)))
    assert features["vit"](image).shape == (CHANNELS, *image.shape)
    assert features["random init"](image).shape[1:] == image.shape


def test_a_file_of_the_published_sizes_is_recognized():
    with torch.device("meta"):
        state = primus_of_layout(**PUBLISHED).state_dict()
    assert 25e6 < sum(tensor.numel() for tensor in state.values()) < 28e6
    net, spec = build_published_vit({name: torch.zeros(tensor.shape) for name, tensor in state.items()}, "x.pth")
    assert spec.least_side == spec.max_side == 128
    assert {name.removeprefix("net.") for name in net.state_dict()} == set(state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("eva.blocks.1.norm1.weight"), r"1 tensors are not those .*eva\.blocks\.1\.norm1"),
        (lambda state: state.update(extra=torch.zeros(1)), r"'extra' \(expected none"),
        (lambda state: state.pop("eva.norm.weight"), "has other tensors"),
        (lambda state: state.update({"eva.pos_embed": torch.zeros(1, 7, WIDTH)}), "4 tokens are no cube"),
    ],
)
def test_other_tensors_are_refused_in_one_line(net, tmp_path, change, said):
    state = dict(net.state_dict())
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError, match=said) as refused:
        load_feature_weights(str(tmp_path / "x.pth"))
    assert "\n" not in str(refused.value)


def test_without_the_package_one_line_says_what_to_install(file, monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("dynamic_network_architectures"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match="pip install dynamic-network-architectures"):
        load_feature_weights(str(file))


def test_a_training_or_import_names_it(file):
    with pytest.raises(InputError, match="published ViT, which computes features only"):
        load_weights(file)


def test_it_is_named_like_other_weights(file, tmp_path, monkeypatch):
    sitk.WriteImage(scan(), tmp_path / "scan.nii.gz")
    monkeypatch.setattr(
        "sys.argv",
        [
            *("nnunet-anatomix", "features", str(tmp_path / "scan.nii.gz"), "--weights", str(file)),
            *("--out", str(tmp_path / "features.nrrd"), "--no-picture", "--device", "cpu"),
        ],
    )
    main()
    assert sitk.ReadImage(tmp_path / "features.nrrd").GetNumberOfComponentsPerPixel() == CHANNELS
