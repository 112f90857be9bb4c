"""Recipes of published networks, on random states with the published names and shapes.

The names are those of the sources that ``docs/how-to/baselines.md`` lists; the weights themselves
were not available.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib import resources
from itertools import product
from pathlib import Path

import pytest
import torch
from monai.networks.nets import SwinUNETR, resnet10
from monai.networks.nets.swin_unetr import PatchMergingV2, filter_swinunetr
from monai.networks.utils import copy_model_state
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.baselines import recipes
from nnunet_anatomix.baselines.models_genesis import UNet3D
from nnunet_anatomix.baselines.recipes import NAMES, write_baseline
from nnunet_anatomix.baselines.smit import SMIT, _Merging
from nnunet_anatomix.commands import baseline as command
from nnunet_anatomix.finetuning.other_network import OtherNetwork
from nnunet_anatomix.finetuning.other_size import measure_network
from nnunet_anatomix.finetuning.other_start import OtherWeights, read_other, start_other
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.common.config import from_dict
from pretraining.common.errors import InputError

SMALL = {
    "primgeoseg": {"feature_size": 12},
    "disruptive_ae": {"feature_size": 12},
    "smit": {"feature_size": 12},
    "medicalnet": {"backbone": "resnet10"},
    "models_genesis": {},
}
"""Keyword arguments that make the networks small; the names of the tensors stay."""


def random_like(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return random tensors of the same names and shapes."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in state.items()
    }


def swin(**changes: object) -> SwinUNETR:
    return SwinUNETR(in_channels=1, out_channels=14, feature_size=12, **changes)


def primgeoseg() -> dict[str, Tensor]:
    return random_like(swin().state_dict())


def disruptive_ae() -> dict[str, object]:
    """MONAI's file of the whole Swin UNETR; ``filter_swinunetr`` reads its transformer."""
    names = {
        name: re.sub(r"^swinViT\.(layers\d)\.0\.", r"encoder.\1.0.0.", name).replace("swinViT.", "encoder.")
        for name in swin().state_dict()
    }
    state = {names[name]: tensor for name, tensor in primgeoseg().items()}
    extra = {"encoder.mask_token": torch.zeros(1, 1, 12), "encoder.norm.weight": torch.ones(192)}
    return {"model": state | extra, "epoch": 3}


def smit() -> dict[str, Tensor]:
    """Transformer of ``models/Trans.py``: layers, blocks, attention with windows of four."""
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (1, 1, 12),
        "patch_embed.proj.weight": (12, 1, 2, 2, 2),
        "patch_embed.proj.bias": (12,),
        "patch_embed.norm.weight": (12,),
        "patch_embed.norm.bias": (12,),
    }
    for layer, depth in enumerate((2, 2, 4, 2)):
        width = 12 * 2**layer
        shapes |= {f"norm{layer}.weight": (width,), f"norm{layer}.bias": (width,)}
        for block in range(depth):
            sizes = {
                "norm1.weight": (width,),
                "norm1.bias": (width,),
                "attn.relative_position_bias_table": (343, 4),
                "attn.qkv.weight": (3 * width, width),
                "attn.proj.weight": (width, width),
                "attn.proj.bias": (width,),
                "norm2.weight": (width,),
                "norm2.bias": (width,),
                "mlp.fc1.weight": (4 * width, width),
                "mlp.fc1.bias": (4 * width,),
                "mlp.fc2.weight": (width, 4 * width),
                "mlp.fc2.bias": (width,),
            }
            shapes |= {f"layers.{layer}.blocks.{block}.{name}": size for name, size in sizes.items()}
        downsample = {
            "reduction.weight": (2 * width, 8 * width),
            "norm.weight": (8 * width,),
            "norm.bias": (8 * width,),
        }
        shapes |= {f"layers.{layer}.downsample.{name}": size for name, size in downsample.items()}
    state = random_like({name: torch.empty(size) for name, size in shapes.items()})
    cube = torch.stack(torch.meshgrid(*[torch.arange(4)] * 3, indexing="ij")).flatten(1)
    index = ((cube[:, :, None] - cube[:, None] + 3) * torch.tensor([49, 7, 1])[:, None, None]).sum(0)
    blocks = {name.partition(".attn.")[0] for name in state if ".attn." in name}
    state |= {f"{block}.attn.relative_position_index": index for block in blocks}
    return {f"module.{name}": tensor for name, tensor in state.items()}


def medicalnet() -> dict[str, object]:
    """File of the 3D ResNet: names of parallel training, and no counters of normalization."""
    net = resnet10(spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False)
    state = {name: tensor for name, tensor in random_like(net.state_dict()).items() if "num_batches" not in name}
    return {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}


def models_genesis() -> dict[str, object]:
    """File of ``pytorch/unet3d.py``: names of parallel training."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f"{name}.conv1.weight": (outputs, inputs, 3, 3, 3), f"{name}.conv1.bias": (outputs,)})
        shapes.update({f"{name}.bn1.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")})

    for stage, (inputs, first, second) in {
        "down_tr64": (1, 32, 64), "down_tr128": (64, 64, 128),
        "down_tr256": (128, 128, 256), "down_tr512": (256, 256, 512),
        "up_tr256": (768, 256, 256), "up_tr128": (384, 128, 128), "up_tr64": (192, 64, 64),
    }.items():  # fmt: skip
        convolution(f"{stage}.ops.0", inputs, first)
        convolution(f"{stage}.ops.1", first, second)
    for stage, width in {"up_tr256": 512, "up_tr128": 256, "up_tr64": 128}.items():
        shapes |= {f"{stage}.up_conv.weight": (width, width, 2, 2, 2), f"{stage}.up_conv.bias": (width,)}
    shapes |= {"out_tr.final_conv.weight": (1, 64, 1, 1, 1), "out_tr.final_conv.bias": (1,)}
    state = random_like({name: torch.empty(size) for name, size in shapes.items()})
    return {"epoch": 5, "state_dict": {f"module.{name}": tensor - 0.5 for name, tensor in state.items()}}


PUBLISHED = {
    "primgeoseg": primgeoseg,
    "disruptive_ae": disruptive_ae,
    "smit": smit,
    "medicalnet": medicalnet,
    "models_genesis": models_genesis,
}


@pytest.fixture
def small(monkeypatch):
    """Make the shipped recipes describe small networks."""

    def read(name: str) -> dict:
        content = json.loads((resources.files(recipes.__package__) / f"{name}.json").read_text(encoding="utf-8"))
        return content | {"kwargs": content.get("kwargs", {}) | SMALL[name]}

    monkeypatch.setattr(recipes, "shipped", read)


def start(name: str, folder: Path) -> tuple[OtherWeights, OtherNetwork]:
    """Write a random file in the published layout, its recipe, and start from it."""
    file = folder / f"{name}.pt"
    torch.save(PUBLISHED[name](), file)
    path = write_baseline(name, file)
    assert path == folder / f"{name}.json"
    weights = read_other(path)
    channels = {"medicalnet": 16, "models_genesis": 64}.get(name, 12)
    net = OtherNetwork(1, 2, spec=asdict(weights.spec), channels=channels)
    start_other(weights, net, 1)
    return weights, net


@pytest.mark.parametrize("name", NAMES)
def test_every_published_tensor_arrives_and_the_network_runs(tmp_path, small, name):
    weights, net = start(name, tmp_path)
    content = PUBLISHED[name]()
    (published,) = [part for part in (content, *content.values()) if isinstance(part, dict) and "epoch" not in part][
        -1:
    ]
    own = net.network.state_dict()
    assert weights.state and all(torch.equal(own[key], tensor) for key, tensor in weights.state.items())
    unused = len(published) - len(weights.state)
    assert unused == {"primgeoseg": 2, "disruptive_ae": 4, "smit": 9, "medicalnet": 0, "models_genesis": 2}[name]
    side = weights.spec.least_side
    if side < 64:  # half a minute at 64 voxels
        assert net(torch.rand(2, 1, side, side, side)).shape == (2, 2, side, side, side)


def test_disruptive_ae_is_read_as_monai_reads_it(tmp_path, small):
    _, net = start("disruptive_ae", tmp_path)
    reference = swin()
    copy_model_state(reference, disruptive_ae()["model"], filter_func=filter_swinunetr)
    for name, tensor in reference.swinViT.state_dict().items():
        assert torch.equal(net.network.swinViT.state_dict()[name], tensor), name


def test_medicalnet_is_read_as_monai_reads_it(tmp_path, small):
    _, net = start("medicalnet", tmp_path)
    reference = resnet10(
        spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False
    )
    state = {name.replace("module.", ""): tensor for name, tensor in medicalnet()["state_dict"].items()}
    reference.load_state_dict(state, strict=False)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(net.network.encoder.state_dict()[name], tensor), name


@torch.no_grad()
def test_models_genesis_computes_as_published():
    state = {name.removeprefix("module."): tensor for name, tensor in models_genesis()["state_dict"].items()}
    net = UNet3D().eval()
    net.load_state_dict(state, strict=False)

    def convolutions(x: Tensor, stage: str) -> Tensor:
        for name in (f"{stage}.ops.0", f"{stage}.ops.1"):
            x = functional.conv3d(x, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"], padding=1)
            mean, var = x.mean((0, 2, 3, 4), keepdim=True), x.var((0, 2, 3, 4), unbiased=False, keepdim=True)
            scale, shift = (state[f"{name}.bn1.{part}"][:, None, None, None] for part in ("weight", "bias"))
            x = torch.relu((x - mean) / torch.sqrt(var + 1e-5) * scale + shift)
        return x

    def up(x: Tensor, skip: Tensor, stage: str) -> Tensor:
        x = functional.conv_transpose3d(x, state[f"{stage}.up_conv.weight"], state[f"{stage}.up_conv.bias"], stride=2)
        return convolutions(torch.cat((x, skip), 1), stage)

    x = torch.rand(1, 1, 16, 24, 16)
    fine = convolutions(x, "down_tr64")
    middle = convolutions(functional.max_pool3d(fine, 2), "down_tr128")
    coarse = convolutions(functional.max_pool3d(middle, 2), "down_tr256")
    y = up(convolutions(functional.max_pool3d(coarse, 2), "down_tr512"), coarse, "up_tr256")
    y = up(up(y, middle, "up_tr128"), fine, "up_tr64")
    y = functional.conv3d(y, state["out_tr.final_conv.weight"], state["out_tr.final_conv.bias"])
    torch.testing.assert_close(net(x), torch.sigmoid(y), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_smit_merges_tokens_in_its_own_order():
    """Their order of the eight neighbours, as a permutation of the weights of MONAI's."""
    torch.manual_seed(9)
    merging, reference = _Merging(dim=3, spatial_dims=3), PatchMergingV2(dim=3, spatial_dims=3)
    theirs = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    order = torch.tensor([theirs.index(corner) for corner in product(range(2), repeat=3)])
    columns = (order[:, None] * 3 + torch.arange(3)).flatten()
    reference.norm.load_state_dict({"weight": merging.norm.weight[columns], "bias": merging.norm.bias[columns]})
    reference.reduction.weight.copy_(merging.reduction.weight[:, columns])
    x = torch.rand(1, 4, 6, 8, 3)
    torch.testing.assert_close(merging(x), reference(x))
    assert {type(part) for part in SMIT(1, 2, feature_size=12).modules() if isinstance(part, PatchMergingV2)} == {
        _Merging
    }


def test_weights_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, small):
    torch.save(primgeoseg(), tmp_path / "swin.pt")
    (tmp_path / "smit.json").write_text("mine")
    with pytest.raises(InputError, match=r"swin\.pt does not fit nnunet_anatomix\.baselines\.smit\.SMIT"):
        write_baseline("smit", tmp_path / "swin.pt")
    assert (tmp_path / "smit.json").read_text() == "mine"
    with pytest.raises(InputError, match=r"no weights file .*none\.pt; docs/how-to/baselines\.md"):
        write_baseline("smit", tmp_path / "none.pt")


def test_the_command_writes_the_file_that_is_asked_for(tmp_path, small):
    torch.save(medicalnet(), tmp_path / "resnet.pth")
    command.baseline("medicalnet", tmp_path / "resnet.pth", tmp_path / "elsewhere" / "net.json")
    assert read_other(tmp_path / "elsewhere" / "net.json").spec.state == str(tmp_path / "resnet.pth")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels", "millions"), [
    ("primgeoseg", 48, 62.2),
    ("smit", 48, 62.9),
    ("disruptive_ae", 48, 62.2),
    ("models_genesis", 64, 19.1),
    ("medicalnet", 16, 67.7),
])  # fmt: skip
def test_shipped_networks_run_in_full_size(name, channels, millions):
    size = measure_network(from_dict(NetworkSpec, recipes.shipped(name)))
    assert size.channels == channels and size.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert size.training_memory_gb((96, 96, 96), 1, 14) < 8, "the default memory target"
