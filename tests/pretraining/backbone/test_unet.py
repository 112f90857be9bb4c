"""The backbone agrees with the published network, and shapes and taps are as documented."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from pretraining.backbone.convolutions import upsample
from pretraining.backbone.published import from_published
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.learning.objectives.contrastive import contrastive_taps
from tests.oracles.plain_unet import plain_features

GOLDEN = ("unet_batch_max_nearest", "unet_instance_avg_trilinear")
FLAT_TAPS = {
    "tap_0": "stem",
    "tap_6": "encoder.0.1",
    "tap_27": "encoder.3.1",
    "tap_31": "bottleneck.0",
    "tap_38": "decoder.3.0",
    "tap_45": "decoder.2.0",
    "tap_52": "decoder.1.0",
    "tap_62": "decoder.0.1",
    "tap_65": "output",
}


def published_network(golden, name: str) -> UNet:
    state, config = from_published(torch.load(golden / f"{name}.pth", weights_only=True))
    net = UNet(config)
    net.load_state_dict(state)
    return net.eval()


def stored(features: torch.Tensor) -> np.ndarray:
    """Return the part of a tensor that golden files store: all of it if small, else a subsample."""
    return (features if features.shape[-1] < 16 else features[..., ::3, ::4, ::5]).detach().numpy()


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_output_equals_the_published_network(golden, name, mode):
    arrays = np.load(golden / f"{name}.npz")
    net = published_network(golden, name).train(mode == "train")
    with torch.no_grad():
        output = net(torch.from_numpy(arrays["input"]))
    np.testing.assert_allclose(stored(output), arrays[f"output_{mode}"], atol=1e-4)


def test_taps_equal_the_published_layers(golden):
    arrays = np.load(golden / "unet_batch_max_nearest.npz")
    net = published_network(golden, "unet_batch_max_nearest")
    x = torch.from_numpy(arrays["input"])
    with torch.no_grad():
        features = net.features(x, tuple(FLAT_TAPS.values()))
    assert {key for key in arrays.files if key.startswith("tap")} == FLAT_TAPS.keys() | {"tap_9", "tap_37"}
    for flat, tap in FLAT_TAPS.items():
        np.testing.assert_allclose(stored(features[tap]), arrays[flat], atol=1e-4, err_msg=tap)


def test_concatenation_is_skip_then_upsampled(golden):
    arrays = np.load(golden / "unet_batch_max_nearest.npz")
    net = published_network(golden, "unet_batch_max_nearest")
    seen = {}
    net.decoder[3][0].conv.register_forward_pre_hook(lambda _, inputs: seen.update(skip=inputs[0], below=inputs[1]))
    net.encoder[1][0].conv.register_forward_pre_hook(lambda _, inputs: seen.update(pooled=inputs[0]))
    with torch.no_grad():
        net(torch.from_numpy(arrays["input"]))
    concatenation = torch.cat((seen["skip"], upsample(seen["below"], "nearest")), dim=1)
    np.testing.assert_allclose(stored(concatenation), arrays["tap_37"], atol=1e-4)
    np.testing.assert_allclose(stored(seen["pooled"]), arrays["tap_9"], atol=1e-4)


def test_table_7_has_its_parameters():
    assert sum(parameter.numel() for parameter in UNet().parameters()) == 5_899_344


def test_the_loss_reads_the_published_layers():
    assert contrastive_taps(UNetConfig()) == tuple(FLAT_TAPS[f"tap_{flat}"] for flat in (27, 31, 38, 45, 52, 65))


def test_tap_shapes_are_those_of_the_features():
    config = UNetConfig(width=2, poolings=2, out_channels=5)
    net = UNet(config)
    shapes = net.tap_shapes()
    with torch.no_grad():
        features = net.features(torch.rand(1, 1, 8, 16, 12), tuple(shapes))
    assert list(shapes) == [
        "stem",
        "output",
        *[name for name, _ in net.convolutions() if name not in ("stem", "output")],
    ]
    for tap, (channels, level) in shapes.items():
        assert features[tap].shape == (1, channels, 8 >> level, 16 >> level, 12 >> level), tap


@pytest.mark.parametrize("shape", [(16, 32, 32), (32, 40, 32), (32, 32)])
def test_axes_that_reflection_cannot_take_are_refused(shape):
    with pytest.raises(ValueError, match="multiple of 16 and at least 32"):
        UNet(UNetConfig(width=2))(torch.zeros(1, 1, *shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"norm": "layer"},
        {"pooling": "min"},
        {"upsampling": "cubic"},
        {"padding": "wrap"},
        {"norm_eps": 0.0},
    ],
)
def test_a_config_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UNetConfig(**wrong)


@pytest.mark.parametrize("name", ["anatomix", "anatomix_dev"])
def test_published_keys_and_shapes(golden, name):
    from pretraining.backbone.published import to_published

    keys = json.loads((golden / f"{name}_published_keys.json").read_text())
    tensors = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
        for key, (shape, dtype) in keys.items()
    }
    state, config = from_published(tensors)
    with torch.device("meta"):
        own = UNet(config).state_dict()
    back = to_published(own, config)
    assert list(back) == list(keys)
    assert {key: [list(tensor.shape), str(tensor.dtype)] for key, tensor in back.items()} == keys
    assert {key: tensor.shape for key, tensor in own.items()} == {key: tensor.shape for key, tensor in state.items()}


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "zeros"},
        {"norm": "instance", "pooling": "average"},
        {"norm": "instance", "upsampling": "trilinear"},
    ],
    ids=str,
)
def test_equals_the_plain_forward_pass(options, layout):
    """Compare features, gradients and running averages to double precision."""
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=3, poolings=2, out_channels=5, **options)).double().to(memory_format=layout)
    plain = copy.deepcopy(net)
    # The finest level has more coarse voxels than convolutions.COARSE_VOXELS, the other fewer.
    x = torch.rand(2, 1, 32, 24, 40, dtype=torch.float64)
    features, expected = net.features(x, tuple(net.tap_shapes())), plain_features(plain, x)
    assert features.keys() == expected.keys()
    loss, loss_expected = (sum(each.square().mean() for each in found.values()) for found in (features, expected))
    loss.backward()
    loss_expected.backward()
    for tap, found in features.items():
        torch.testing.assert_close(found, expected[tap], rtol=1e-11, atol=1e-12, msg=tap)
        assert found.stride() == expected[tap].stride(), tap
    for (name, ours), theirs in zip(net.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)
    for (name, ours), theirs in zip(net.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the check of the input's shape
def test_compiles_to_one_graph_and_traces():
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=2, poolings=1)).double()
    x = torch.rand(1, 1, 32, 24, 40, dtype=torch.float64)
    expected = net(x)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected)
    net.eval()
    torch.testing.assert_close(torch.jit.trace(net, x)(x), net(x))
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))
