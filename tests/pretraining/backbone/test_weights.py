"""Weights files survive round trips, and invalid files give one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.transfer import transfer
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import export_published, load_weights, save_weights
from pretraining.common.errors import InputError

TINY = UNetConfig(width=2, poolings=2, out_channels=3)


@pytest.fixture
def weights_file(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_weights(path, UNet(TINY).state_dict(), TINY, {"name": "tiny", "iterations": 3})
    return path


@pytest.mark.parametrize("name", ["unet_batch_max_nearest", "unet_instance_avg_trilinear"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_export_of_import_is_bit_identical(golden, tmp_path, name, prefix):
    original = torch.load(golden / f"{name}.pth", weights_only=True)
    torch.save({prefix + key: tensor for key, tensor in original.items()}, tmp_path / "in.pth")
    imported = load_weights(tmp_path / "in.pth")
    save_weights(tmp_path / "ours.safetensors", imported.state, imported.architecture, imported.card)
    ours = load_weights(tmp_path / "ours.safetensors")
    export_published(tmp_path / "out.pth", ours)
    back = torch.load(tmp_path / "out.pth", weights_only=True)
    assert ours.sha256 == imported.sha256
    assert list(back) == list(original)
    for key, tensor in original.items():
        assert back[key].dtype == tensor.dtype and torch.equal(back[key], tensor), key


def test_a_weights_file_gives_back_network_and_card(weights_file):
    weights = load_weights(weights_file)
    assert weights.architecture == TINY
    assert weights.card == {"name": "tiny", "iterations": 3, "sha256": weights.sha256}
    assert not weights.network().training


def damaged(path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(content[:-100])
    elif kind == "bit flipped":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(b"not tensors at all")


@pytest.mark.parametrize("kind", ["truncated", "bit flipped", "foreign"])
def test_a_damaged_file_is_refused(weights_file, kind):
    damaged(weights_file, kind)
    with pytest.raises(InputError, match="damaged"):
        load_weights(weights_file)


def test_a_safetensors_file_of_someone_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="expected format 'anatomix-weights/1', found None"):
        load_weights(tmp_path / "x.safetensors")


class Payload:
    """Object that an attacker could put into a .pth file."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model.0.weight": Payload()}, "contains more than tensors"),
        ({"network_weights": {}, "trainer_name": "nnUNetTrainer"}, "checkpoint of nnU-Net"),
        ({"network_weights": {}, "init_args": Payload()}, "checkpoint of nnU-Net"),
        ([torch.zeros(1)], "expected a state dict"),
        ({}, "expected a state dict"),
        (
            {"patch_embed.proj.weight": torch.zeros(8, 1, 4, 4, 4), "blocks.0.attn.qkv.weight": torch.zeros(24, 8)},
            "other architectures",
        ),
        ({"model.0.weight": torch.zeros(16, 1, 3, 3, 3)}, "not a published anatomix UNet"),
    ],
)
def test_a_pth_that_is_no_published_unet_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=message) as caught:
        load_weights(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_published_unet_with_a_wrong_tensor_is_refused(golden, tmp_path):
    state = torch.load(golden / "unet_batch_max_nearest.pth", weights_only=True)
    state["model.4.running_mean"] = torch.zeros(7)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"'model.4.running_mean' has shape \(7,\), expected \(4,\)"):
        load_weights(tmp_path / "x.pth")


def test_garbage_named_pth_is_refused(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"garbage")
    with pytest.raises(InputError, match="damaged or contains more than tensors"):
        load_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["anatomix", "anatomix-dev", "anatomix-dev-vit"])
def test_published_names_lead_to_their_address(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"use hf://neeldey/anatomix/{name}.pth@COMMIT"):
        find_weights(name)
    (tmp_path / name).touch()
    assert find_weights(name).name == name


def test_weights_are_found_in_the_documented_order(tmp_path, monkeypatch):
    for name in ("explicit", "variable", "plan"):
        (tmp_path / name).touch()
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(tmp_path / "variable"))
    assert find_weights(str(tmp_path / "explicit"), str(tmp_path / "plan")).name == "explicit"
    assert find_weights(None, str(tmp_path / "plan")).name == "variable"
    monkeypatch.delenv("ANATOMIX_WEIGHTS")
    assert find_weights(None, str(tmp_path / "plan")).name == "plan"
    assert find_weights().name == find_weights("bundled").name == "anatomix_unet16.safetensors"


def test_a_wish_that_cannot_be_met_is_no_silent_fallback(tmp_path, monkeypatch):
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(tmp_path / "gone.safetensors"))
    with pytest.raises(InputError, match=r"ANATOMIX_WEIGHTS names .*gone\.safetensors"):
        find_weights()


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Simulate a hub whose branch ``main`` and tag ``v1`` are at COMMIT; return the requests."""
    import huggingface_hub

    asked = []

    def download(repo: str, file: str, revision: str | None):
        asked.append((repo, file, revision))
        path = tmp_path / "snapshots" / COMMIT / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_hub_address_names_its_revision_and_what_can_move_is_said(hub, caplog):
    found = find_weights(f"hf://owner/repo/sub/anatomix.pth@{COMMIT}")
    assert found.name == "anatomix.pth" and hub == [("owner/repo", "sub/anatomix.pth", COMMIT)] and not caplog.records
    assert find_weights("hf://owner/repo/sub/anatomix.pth@v1") == found
    assert f"use @{COMMIT} to pin" in caplog.text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://owner", "expected hf://owner/repo/file@revision"),
        ("hf://owner/repo/file.pth", "has no revision"),
        ("hf://owner/repo/file.pth@", "has no revision"),
    ],
)
def test_an_address_that_could_mean_other_weights_tomorrow_is_refused(hub, address, message):
    with pytest.raises(InputError, match=message):
        find_weights(address)
    assert not hub


@pytest.mark.parametrize("error", [OSError("no network\nat all"), ValueError(), RuntimeError("proxy")])
def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, error):
    import huggingface_hub

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(InputError, match=r"could not fetch hf://owner/repo/file\.pth@v1") as caught:
        find_weights("hf://owner/repo/file.pth@v1")
    assert "\n" not in str(caught.value)


def test_the_hubs_cache_serves_offline(weights_file, tmp_path):
    """Use the hub's own client in a new process, since it reads its settings once."""
    folder = tmp_path / "hub" / "models--owner--repo"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "v1").write_text(COMMIT)
    cached = folder / "snapshots" / COMMIT / "tiny.safetensors"
    cached.write_bytes(weights_file.read_bytes())
    program = (
        "import sys; from pretraining.backbone.find_weights import find_weights; "
        "print(*map(find_weights, sys.argv[1:]), sep='\\n')"
    )

    def find(*addresses: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
        environment.pop("ANATOMIX_WEIGHTS", None)
        return subprocess.run(
            [sys.executable, "-c", program, *addresses], env=environment, capture_output=True, text=True, check=False
        )

    found = find(f"hf://owner/repo/tiny.safetensors@{COMMIT}", "hf://owner/repo/tiny.safetensors@v1")
    assert found.stdout.splitlines() == [str(cached)] * 2, found.stderr
    missing = find("hf://owner/repo/other.safetensors@v1")
    assert (
        missing.returncode and "could not fetch hf://owner/repo/other.safetensors@v1" in missing.stderr.splitlines()[-1]
    )


def test_the_bundled_weights_fit_table_7():
    weights = load_weights(find_weights())
    assert weights.architecture == UNetConfig()
    assert json.dumps(weights.card)
    assert {
        "name",
        "iterations",
        "temperature",
        "seed",
        "templates",
        "validation_loss",
        "software",
        "licence",
        "sha256",
    } <= weights.card.keys()


def test_one_input_channel_is_spread_over_several():
    one, three = UNet(TINY).eval(), UNet(UNetConfig(width=2, poolings=2, out_channels=3, in_channels=3)).eval()
    report = transfer(one.state_dict(), three)
    assert list(report.adapted) == ["stem.conv.weight"] and not report.missing and not report.unexpected
    x = torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(three(x.expand(-1, 3, -1, -1, -1)), one(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [("missing", "lack 1 tensors"), ("unexpected", "network lacks"), ("shape", r"has shape \(9,\)")],
)
def test_transfer_is_all_or_nothing(change, message):
    state = UNet(TINY).state_dict()
    if change == "missing":
        del state["output.weight"]
    elif change == "unexpected":
        state["extra"] = torch.zeros(1)
    else:
        state["stem.norm.bias"] = torch.zeros(9)
    net = UNet(TINY)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=message):
        transfer(state, net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_new_head_may_be_missing_and_is_reported():
    net = torch.nn.ModuleDict({"backbone": UNet(TINY), "head": torch.nn.Conv3d(3, 2, 1)})
    state = {f"backbone.{name}": tensor for name, tensor in UNet(TINY).state_dict().items()}
    report = transfer(state, net, may_miss=("head.",))
    assert report.missing == ("head.weight", "head.bias")
    assert str(report).endswith("2 missing and left as initialized (head.weight, head.bias)")
