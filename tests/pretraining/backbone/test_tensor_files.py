"""Invalid tensor files are refused in one line, before memory is allocated."""

from __future__ import annotations

import json
import pickle
import re
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from pretraining.backbone.published import to_published
from pretraining.backbone.tensor_files import load_tensor_file
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import FORMAT, export_published, load_weights, save_weights, tensors_sha256
from pretraining.common.config import to_dict
from pretraining.common.errors import InputError
from pretraining.common.finite import NotFinite
from pretraining.learning.checkpoint import load_checkpoint

TINY = UNetConfig(width=2, poolings=2, out_channels=3)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in UNet(TINY).state_dict().items()}


def safetensors_file(path, tensors, architecture=None, card=None):
    """Write a weights file with other content and a matching checksum."""
    described = json.dumps(to_dict(TINY) if architecture is None else architecture)
    stated = {"sha256": tensors_sha256(tensors)} if card is None else card
    safetensors.torch.save_file(
        tensors, path, {"format": FORMAT, "architecture": described, "card": json.dumps(stated)}
    )
    return path


def pth_file(path, content):
    torch.save(content, path)
    return path


def refused(path, load=load_weights) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    tensors = state()
    tensors["decoder.0.0.conv.weight"][0, 0, 1, 1, 1] = value
    message = refused(safetensors_file(tmp_path / "w.safetensors", tensors))
    assert "1 of 324 values of 'decoder.0.0.conv.weight' are NaN or infinite" in message
    assert "are NaN or infinite" in refused(pth_file(tmp_path / "w.pth", to_published(tensors, TINY)))


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    tensors = state()
    save_weights(tmp_path / "w.safetensors", tensors, TINY, {})
    before = (tmp_path / "w.safetensors").read_bytes()
    loaded = load_weights(tmp_path / "w.safetensors")
    tensors["stem.conv.weight"][0] = torch.nan
    with pytest.raises(NotFinite, match=r"'stem\.conv\.weight' are NaN"):
        save_weights(tmp_path / "w.safetensors", tensors, TINY, {})
    loaded.state["stem.conv.weight"][0] = torch.nan
    with pytest.raises(NotFinite):
        export_published(tmp_path / "w.pth", loaded)
    assert (tmp_path / "w.safetensors").read_bytes() == before and not (tmp_path / "w.pth").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_tensors_of_other_types_are_refused(tmp_path, dtype):
    tensors = state() | {"stem.conv.weight": state()["stem.conv.weight"].to(dtype)}
    assert str(dtype) in refused(safetensors_file(tmp_path / "w.safetensors", tensors))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(tmp_path, dtype):
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state().items()}
    assert load_weights(safetensors_file(tmp_path / "w.safetensors", tensors)).state["stem.conv.weight"].dtype == dtype


def published_with(**changes: object) -> dict:
    published = to_published(state(), TINY)
    return published | {f"model.{name}": value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (published_with() | {0: torch.zeros(3)}, "a int '0'"),
        ({"model.0.weight": torch.quantize_per_tensor(torch.rand(2, 1, 3, 3, 3), 0.1, 0, torch.qint8)}, "quantized"),
        ({"model.0.weight": torch.rand(2, 1, 3, 3, 3).to_sparse()}, "sparse"),
        ({"model.0.weight": torch.zeros(2, 1, 3, 3, 3, dtype=torch.complex64)}, "complex"),
        ({"model.0.weight": torch.zeros(1).expand(16_000_000_000_000)}, "claims a tensor of 58.21TB, but has"),
        ({"a": [{"b": torch.zeros(1).expand(16_000_000_000_000)}]}, "claims a tensor of 58.21TB, but has"),
    ],
    ids=["whole number for a name", "quantized", "sparse", "complex", "59 TB", "59 TB, deep within"],
)
def test_a_pth_that_no_network_can_use_is_refused(tmp_path, content, said):
    assert said in refused(pth_file(tmp_path / "w.pth", content))


class Asks:
    """Object that unpickles to a call that PyTorch allows."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_pickle_that_asks_for_memory_is_refused(tmp_path):
    assert "w.pth" in refused(pth_file(tmp_path / "w.pth", {"w": Asks(torch.Tensor, 16_000_000_000_000)}))


@pytest.mark.skipif(not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"), reason="needs PyTorch 2.6")
@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_numbers_of_numpy_beside_the_tensors_are_skipped(tmp_path, core):
    """Old trainings saved their best loss so; NumPy renamed its module since."""
    path = pth_file(tmp_path / "old.pth", {"state": state(), "best_loss": np.float64(3.5), "epoch": np.int64(2)})
    members = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            members[member] = re.sub(rb"numpy\._?core\.", b"numpy." + core + b".", archive.read(member))
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    loaded = load_tensor_file(path, "expected tensors")["state"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state().items())
    with pytest.raises(InputError, match="more than tensors"):
        load_tensor_file(pth_file(tmp_path / "array.pth", {"losses": np.ones(3)}), "expected tensors")


def test_a_pth_that_unpacks_to_more_than_it_is_is_not_opened(tmp_path, monkeypatch):
    pth_file(tmp_path / "w.pth", {"w": torch.zeros(1_000_000)})
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as archive,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("it was opened"))
    message = refused(tmp_path / "bomb.pth")
    assert "unpacks to 3.815MB from" in message and "not opened" in message


@pytest.mark.parametrize("card", [[1, 2], "text", None, 7])
def test_a_card_that_is_no_object_is_refused(tmp_path, card):
    path = tmp_path / "w.safetensors"
    metadata = {"format": FORMAT, "architecture": json.dumps(to_dict(TINY)), "card": json.dumps(card)}
    safetensors.torch.save_file(state(), path, metadata)
    assert "no readable architecture and card" in refused(path)


@pytest.mark.parametrize(
    "architecture",
    [
        [1],
        {"width": 2**62},
        {"width": 2048},
        {"poolings": 70},
        {"in_channels": 10**9},
        {"norm_eps": float("nan")},
        {"width": 1e300},
        {"norm": ["batch"]},
    ],
    ids=str,
)
def test_an_absurd_architecture_is_refused(tmp_path, architecture):
    refused(safetensors_file(tmp_path / "w.safetensors", state(), architecture))


def test_an_architecture_that_asks_for_more_than_the_file_holds_is_refused(tmp_path):
    assert "does not fit its own architecture" in refused(
        safetensors_file(tmp_path / "w.safetensors", state(), {"width": 1024})
    )


@pytest.mark.parametrize("load", [load_weights, load_checkpoint])
@pytest.mark.parametrize("kept", [0, 1, 30, 5000, -1])
def test_a_cut_file_is_named(tmp_path, load, kept):
    content = pth_file(tmp_path / "w.pth", to_published(state(), TINY)).read_bytes()
    (tmp_path / "w.pth").write_bytes(content[:kept])
    refused(tmp_path / "w.pth", load)


def test_garbage_in_the_older_format_is_refused(tmp_path):
    for content in (pickle.dumps([]), pickle.dumps({"a": 1}), b"\x80\x02.", b"\x80\x02]q\x00(", b"garbage"):
        (tmp_path / "w.pth").write_bytes(content)
        refused(tmp_path / "w.pth")


def test_the_older_format_of_pytorch_is_read(tmp_path):
    torch.save({"w": torch.arange(5.0)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_tensor_file(tmp_path / "w.pth", "")["w"], torch.arange(5.0))
