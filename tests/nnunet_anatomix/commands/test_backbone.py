"""Export of a fine-tuned model's backbone as weights that other trainings start from."""

from __future__ import annotations

import sys

import pytest
import torch

from nnunet_anatomix.cli import main
from nnunet_anatomix.finetuning.network import AnatomixNetwork
from pretraining.backbone.weights import load_weights

ARCHITECTURE = {"width": 4, "poolings": 2, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "feature_norm": "none"}


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nnunet-anatomix", "backbone", *map(str, arguments)])
    main()


def checkpoint(path, net, network_class="nnunet_anatomix.finetuning.network.AnatomixNetwork"):
    configuration = {"architecture": {"network_class_name": network_class, "arch_kwargs": ARCHITECTURE}}
    plans = {"dataset_name": "Dataset706_NeuriteOASIS", "configurations": {"3d_fullres": configuration}}
    content = {
        "network_weights": net.state_dict(),
        "init_args": {"plans": plans, "configuration": "3d_fullres"},
        "current_epoch": 3,
    }
    torch.save(content, path)
    return path


def test_the_file_contains_the_trained_backbone_and_a_card(tmp_path, monkeypatch):
    net = AnatomixNetwork(1, 36, **ARCHITECTURE)
    out = tmp_path / "transfer.safetensors"
    run(monkeypatch, checkpoint(tmp_path / "checkpoint_final.pth", net), "--out", out)
    weights = load_weights(out)
    assert weights.card["dataset"] == "Dataset706_NeuriteOASIS" and weights.architecture == net.backbone.config
    assert all(torch.equal(weights.state[name], tensor) for name, tensor in net.backbone.state_dict().items())


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: None, "no checkpoint at"),
    (lambda path: path.write_bytes(b"PK" + bytes(50)), "is damaged or was not written by torch.save"),
    (lambda path: checkpoint(path, torch.nn.Linear(2, 2)), "does not contain a backbone .*, but weight"),
    (
        lambda path: checkpoint(path, AnatomixNetwork(1, 2, **ARCHITECTURE), "some.other.Net"),
        "its plan does not describe",
    ),
])  # fmt: skip
def test_other_files_are_refused_in_one_line(tmp_path, monkeypatch, make, message):
    path = tmp_path / "checkpoint_final.pth"
    make(path)
    with pytest.raises(SystemExit, match=message) as stop:
        run(monkeypatch, path, "--out", tmp_path / "out.safetensors")
    assert "\n" not in str(stop.value.code) and not (tmp_path / "out.safetensors").exists()
