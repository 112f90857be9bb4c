"""External networks yield their own features, at the resolution of the scan."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn
from torch.nn import functional

from nnunet_anatomix.cli import main
from nnunet_anatomix.features.extract import extract_features
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.solvers.ants import AntsConfig
from pretraining.backbone.external_weights import ExternalWeights, load_feature_weights
from pretraining.backbone.inference import rescale_intensity
from pretraining.backbone.weights import Weights
from pretraining.common.errors import InputError
from pretraining.imaging.grids import image_tensor

KWARGS = {"spatial_dims": 3, "in_channels": 1, "out_channels": 5, "channels": [4, 8, 8], "strides": [2, 2]}
SIZES = (24, 20, 32)


class FixedSize(nn.Module):
    """Network with a fixed input size of 16, like transformers with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, 3, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 3, 4, 4, 4))
        self.flat = nn.Parameter(torch.randn(1, 2, 4, 4))  # four axes, for which channels_last_3d is undefined

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return self.embed(x) + self.position, "auxiliary"


def described(folder: Path, content: object, /, **changes: object) -> Path:
    """Write a JSON file with the state next to it."""
    torch.save(content, folder / "net.pth")
    spec = {
        "network": "monai.networks.nets.UNet",
        "kwargs": KWARGS,
        "state": "net.pth",
        "multiple": 4,
        "min_side": 8,
    } | changes
    path = folder / "net.json"
    path.write_text(json.dumps({name: value for name, value in spec.items() if value is not None}))
    return path


def monai_net(seed: int = 0) -> MonaiUNet:
    torch.manual_seed(seed)
    return MonaiUNet(**KWARGS).eval()


def scan(seed: int = 0, sizes: tuple[int, int, int] = SIZES) -> sitk.Image:
    """Create a scan of smooth noise in (100, 900), with oblique axes."""
    noise = torch.rand((1, 1, *(side // 4 for side in sizes)), generator=torch.Generator().manual_seed(seed))
    values = functional.interpolate(noise, size=sizes, mode="trilinear")[0, 0] * 800 + 100
    image = sitk.GetImageFromArray(values.numpy().transpose(2, 1, 0).copy())
    image.SetSpacing((1.0, 1.0, 1.5))
    return image


def test_features_are_what_the_network_itself_gives(tmp_path):
    net, image = monai_net(), scan()
    weights = load_feature_weights(str(described(tmp_path, net.state_dict())))
    assert isinstance(weights, ExternalWeights) and weights.architecture.out_channels == 5
    with torch.no_grad():
        expected = net(rescale_intensity(image_tensor(image))[None, None])[0]
    torch.testing.assert_close(extract_features(image, weights, whole=True, bf16=False), expected, atol=1e-5, rtol=1e-5)


def test_a_coarser_layer_is_upsampled_and_intensities_come_in_the_range_asked_for(tmp_path):
    net, image = monai_net(), scan()
    found = []
    net.model[1].submodule[0].register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        net(rescale_intensity(image_tensor(image))[None, None] * 2 - 1)
    expected = functional.interpolate(found[0], size=SIZES, mode="trilinear")[0]
    assert found[0].shape[2:] != expected.shape[1:]
    changes = {"layer": "model.1.submodule.0", "input_range": [-1, 1]}
    weights = load_feature_weights(str(described(tmp_path, net.state_dict(), **changes)))
    torch.testing.assert_close(extract_features(image, weights, whole=True, bf16=False), expected, atol=1e-5, rtol=1e-5)


def test_networks_of_one_size_see_windows_of_that_size(tmp_path):
    torch.manual_seed(0)
    state = FixedSize().state_dict()
    path = described(tmp_path, state, network=f"{__name__}.FixedSize", kwargs={}, multiple=16, min_side=16, max_side=16)
    weights = load_feature_weights(str(path))
    with pytest.raises(InputError, match=r"at most 16 voxels per side.*use windows"):
        extract_features(scan(), weights, whole=True)
    features = extract_features(scan(), weights, bf16=False)
    assert features.shape == (3, *SIZES) and features.std() > 0


def test_nested_and_prefixed_states_and_heads_of_other_tasks(tmp_path):
    net = monai_net(3)
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    nested = {"epoch": 7, "state_dict": state | {"module.head.weight": torch.ones(2)}}
    path = described(tmp_path, nested, state_key="state_dict", strip_prefix="module.", ignore=["head."])
    loaded = load_feature_weights(str(path)).network().net.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in net.state_dict().items())


def test_one_network_used_in_two_ways_is_two(tmp_path):
    state = monai_net().state_dict()
    first, again, other = (
        load_feature_weights(str(described(tmp_path, state, input_range=top))).sha256
        for top in ([0, 1], [0, 1], [0, 2])
    )
    assert first == again != other


def test_our_own_weights_are_read_as_ever(weights_file):
    assert isinstance(load_feature_weights(str(weights_file)), Weights)


class Unpickled:
    """Object that a state dict must not contain."""


STATE = monai_net().state_dict()
BAD = [
    ({"network": "monai.networks.nets.NoSuchNet"}, STATE, "no monai.networks.nets.NoSuchNet here"),
    ({"network": "no_such_package.Net"}, STATE, "no no_such_package.Net here"),
    ({"network": "math.pi"}, STATE, "no math.pi here"),
    ({"network": "builtins.dict", "kwargs": {}}, STATE, r"dict is a class, expected a subclass of torch\.nn\.Module"),
    ({"kwargs": KWARGS | {"colour": "red"}}, STATE, "does not accept these kwargs.*colour"),
    ({"kwargs": KWARGS | {"out_channels": 6}}, STATE, r"does not fit .* tensors differ.*expected \(.*found \("),
    (
        {"kwargs": KWARGS | {"in_channels": 2}},
        {**MonaiUNet(**(KWARGS | {"in_channels": 2})).state_dict()},
        "fails on a cube of 8 voxels",
    ),
    ({"layer": "model.9"}, STATE, r"no layer 'model.9', found \['model'"),
    ({"state": "elsewhere.pth"}, STATE, "no state dict at .*elsewhere.pth"),
    ({}, {"weights": Unpickled()}, "contains more than tensors"),
    ({}, {"state_dict": STATE}, r"found keys \['state_dict'\]; set 'state_key'"),
    ({"state_key": "model"}, {"state_dict": STATE}, r"has no 'model', found \['state_dict'\]"),
    ({"multiple": 0}, STATE, "expected a number of at least 1|min_side: expected a multiple"),
    ({"max_side": 10}, STATE, "need max_side a multiple of 4"),
    ({"input_range": [1, 0]}, STATE, "input_range: expected two numbers"),
    ({"rename": {"(": ""}}, STATE, "rename: .*'\\('"),
    ({"rename": {"^a": "\\1"}}, STATE, "rename: .*'\\^a'"),
    ({"spacing_mm": [1, 0, 1]}, STATE, "spacing_mm"),
    ({"netwrok": 1}, STATE, "unknown keys.*netwrok"),
    ({"network": None}, STATE, "network"),
]


@pytest.mark.parametrize(("changes", "state", "message"), BAD)
def test_what_does_not_serve_is_said_in_one_line(tmp_path, changes, state, message):
    with pytest.raises(InputError, match=message) as raised:
        load_feature_weights(str(described(tmp_path, state, **changes)))
    assert "\n" not in str(raised.value)


def test_keys_are_renamed_in_order(tmp_path):
    net = monai_net(3)
    state = {f"m.encoder.{name}".replace("model.0", "model_0"): value for name, value in net.state_dict().items()}
    renaming = {r"^encoder\.": "net.", r"^net\.model_(\d)": r"net.model.\1", "^net.": ""}
    path = described(tmp_path, state, strip_prefix="m.", rename=renaming)
    loaded = load_feature_weights(str(path)).network().net.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in net.state_dict().items())


def test_counters_that_old_files_lack_are_not_missed(tmp_path):
    kwargs = KWARGS | {"norm": "batch"}
    net = MonaiUNet(**kwargs)
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(net.state_dict())
    load_feature_weights(str(described(tmp_path, state, kwargs=kwargs)))


def test_windows_can_be_standardized(tmp_path):
    net, image = monai_net(), scan()
    weights = load_feature_weights(str(described(tmp_path, net.state_dict(), standardize=True)))
    x = rescale_intensity(image_tensor(image))[None, None]
    with torch.no_grad():
        expected = net((x - x.mean()) / x.std())[0]
    torch.testing.assert_close(extract_features(image, weights, whole=True, bf16=False), expected, atol=1e-4, rtol=1e-4)


def test_a_network_with_new_parts_gives_no_features(tmp_path):
    state = {name: value for name, value in STATE.items() if not name.startswith("model.2.")}
    with pytest.raises(InputError, match=r"tensors differ, the first is 'model\.2\."):
        load_feature_weights(str(described(tmp_path, state, new=["model.2."])))


def shifted(fixed: sitk.Image) -> sitk.Image:
    return sitk.Resample(fixed, fixed, sitk.TranslationTransform(3, (1.5, -1.0, 0.0)), sitk.sitkLinear, 100.0)


def error(one: sitk.Image, other: sitk.Image) -> float:
    """Compute the mean absolute difference away from the border."""
    arrays = [sitk.GetArrayFromImage(image)[4:-4, 4:-4, 4:-4] for image in (one, other)]
    return float(np.abs(arrays[0] - arrays[1]).mean())


def test_they_drive_convexadam_from_the_command_line(tmp_path, monkeypatch):
    fixed = scan(1)
    moving = shifted(fixed)
    for name, image in (("fixed", fixed), ("moving", moving)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    scans = [
        "--fixed",
        str(tmp_path / "fixed.nii.gz"),
        "--moving",
        str(tmp_path / "moving.nii.gz"),
        "--init",
        "none",
        "--device",
        "cpu",
    ]
    how = [
        "--features",
        str(described(tmp_path, STATE)),
        "--no-mind",
        "--grid-spacing",
        "4",
        "--adam-spacing",  # features of random weights on noise are alike only over cubes
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["nnunet-anatomix", "register", *scans, *how])
    main()
    assert json.loads((tmp_path / "out" / "registration.json").read_text())["method"] == "convexadam-features"
    moved = sitk.ReadImage(str(tmp_path / "out" / "moved.nii.gz"))
    assert error(moved, fixed) < 0.95 * error(moving, fixed)


@pytest.mark.skipif(importlib.util.find_spec("ants") is None, reason="antspyx is not installed")
def test_they_drive_ants(tmp_path):
    fixed = scan(1)
    moving = shifted(fixed)
    quick = AntsConfig(iterations=(20, 10), shrink_factors=(2, 1), smoothing_sigmas_vox=(1, 0))
    config = RegistrationConfig(solver="ants", init="none", ants=quick)
    registration = register(
        fixed, moving, config=config, features=load_feature_weights(str(described(tmp_path, STATE)))
    )
    assert registration.settings["method"] == "ants-features"
    assert error(registration.moved, fixed) < 0.95 * error(moving, fixed)


class Flag:
    """Class that records its calls."""

    called = False

    def __init__(self, **options: object) -> None:
        type(self).called = True


def make_net(**options: object) -> MonaiUNet:
    """Build a network in a function."""
    Flag.called = True
    return MonaiUNet(**options)


@pytest.mark.parametrize("named", ["Flag", "make_net"])
def test_nothing_is_called_that_is_no_network(tmp_path, monkeypatch, named):
    monkeypatch.setattr(Flag, "called", False)
    with pytest.raises(InputError, match=r"expected a subclass of torch\.nn\.Module.*--trust-code"):
        load_feature_weights(str(described(tmp_path, STATE, network=f"{__name__}.{named}")))
    assert not Flag.called


def test_a_shell_is_not_called(tmp_path, monkeypatch):
    """Refuse check_output with a command line instead of a network, as once reported."""
    monkeypatch.chdir(tmp_path)
    path = described(
        tmp_path, STATE, network="subprocess.check_output", kwargs={"args": "touch code_was_run", "shell": True}
    )
    sitk.WriteImage(scan(), "scan.nii.gz")
    monkeypatch.setattr(
        sys, "argv", ["nnunet-anatomix", "features", "scan.nii.gz", "--out", "f.nii.gz", "--weights", str(path)]
    )
    with pytest.raises(SystemExit, match=r"subprocess\.check_output is a function"):
        main()
    assert not (tmp_path / "code_was_run").exists() and not (tmp_path / "f.nii.gz").exists()


def test_a_function_is_called_once_it_is_trusted(tmp_path):
    path = str(described(tmp_path, STATE, network=f"{__name__}.make_net"))
    assert load_feature_weights(path, trust_code=True).architecture.out_channels == 5
    with pytest.raises(InputError, match="found a Flag"):
        load_feature_weights(str(described(tmp_path, STATE, network=f"{__name__}.Flag")), trust_code=True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Simulate a hub with the files of a folder; return the requests."""
    import huggingface_hub

    asked = []

    def download(repo: str, file: str, revision: str | None) -> str:
        asked.append((repo, file, revision))
        return str(tmp_path / Path(file).name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_code_from_the_hub_needs_trust_even_for_a_network(tmp_path, hub):
    described(tmp_path, STATE, state="deep/net.pth")
    with pytest.raises(InputError, match="add --trust-code"):
        load_feature_weights("hf://owner/repo/nets/net.json@v1")
    assert not hub
    assert isinstance(load_feature_weights("hf://owner/repo/nets/net.json@v1", trust_code=True), ExternalWeights)
    assert hub == [("owner/repo", "nets/net.json", "v1"), ("owner/repo", "nets/deep/net.pth", "v1")]
    described(tmp_path, STATE, state="../../../elsewhere.pth")
    with pytest.raises(InputError, match="of the same repository"):
        load_feature_weights("hf://owner/repo/nets/net.json@v1", trust_code=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_refused(tmp_path, value):
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    next(iter(state.values())).view(-1)[0] = value
    with pytest.raises(InputError, match=r"1 of .* values of .* are NaN or infinite"):
        load_feature_weights(str(described(tmp_path, state)))
