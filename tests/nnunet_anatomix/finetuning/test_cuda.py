"""Fine-tuning on a GPU: compilation, half precision, memory, copies and two ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nnunet_anatomix.finetuning.memory import GB, training_memory_gb
from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer
from pretraining.backbone.unet import UNetConfig

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

NAME = "Dataset901_Hippocampus"
DEVICE = torch.device("cuda")
COPIES = ("copy", "pad", "cat", "to", "contiguous")
"""Names of operations that compute nothing."""


@pytest.fixture
def hippocampus(nnunet, planned_hippocampus, monkeypatch):
    """Return nnU-Net's folders with the planned Dataset901; the weights are the bundled ones."""
    shutil.copytree(planned_hippocampus / NAME, nnunet.preprocessed / NAME)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("ANATOMIX_SEED", "1")
    return nnunet


def started(folders) -> AnatomixTrainer:
    base = folders.preprocessed / NAME
    plan, description = (json.loads((base / f"{name}.json").read_text()) for name in ("nnUNetAnatomixPlans", "dataset"))
    trainer = AnatomixTrainer(plan | {"continue_training": False}, "3d_fullres", 0, description, DEVICE)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def train(trainer: AnatomixTrainer, steps: int) -> list[float]:
    return [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(steps)]


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean Dice of the foreground labels of two segmentations."""
    labels = range(1, int(max(one.max(), other.max())) + 1)
    return sum(
        float(2 * ((one == label) & (other == label)).sum() / ((one == label).sum() + (other == label).sum()))
        for label in labels
    ) / len(labels)


def test_compiled_training_takes_the_same_course(hippocampus, monkeypatch):
    losses = {}
    for compiled in ("f", "t"):
        monkeypatch.setenv("nnUNet_compile", compiled)
        losses[compiled] = train(started(hippocampus), 5)
    assert losses["t"] == pytest.approx(losses["f"], abs=0.03)


def test_half_precision_segments_like_single_precision(hippocampus, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.setenv("ANATOMIX_ITERATIONS", "150")
    trainer = started(hippocampus)
    losses = train(trainer, 150)
    assert losses[-1] < losses[0]
    trainer.network.eval()
    data = next(trainer.dataloader_val)["data"].to(DEVICE)
    with torch.no_grad():
        single = trainer.network(data).argmax(1)
        with torch.autocast(DEVICE.type, torch.float16):
            half = trainer.network(data).argmax(1)
    assert single.any() and dice(half, single) >= 0.99


@pytest.mark.parametrize(("side", "batch"), [(64, 2), (96, 2), (112, 4)])
def test_the_memory_of_a_step_is_as_estimated(side, batch):
    net = AnatomixNetwork(1, 3).to(DEVICE)
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.float16):
            logits = net(torch.rand(batch, 1, side, side, side, device=DEVICE))
            loss = torch.nn.functional.cross_entropy(logits.float(), torch.zeros_like(logits[:, 0]).long())
        loss.backward()
        optimizer.step()

    step()  # allocates Adam's moments, and lets cuDNN choose its kernels
    torch.cuda.reset_peak_memory_stats()
    step()
    measured = torch.cuda.max_memory_allocated() / GB
    estimated = training_memory_gb(UNetConfig(), (side,) * 3, batch, 3)
    assert 0.6 < measured / estimated <= 1.0, "planning must not promise what does not fit, nor waste much"


def test_most_of_a_step_is_arithmetic(hippocampus, monkeypatch, record_property):
    monkeypatch.setenv("nnUNet_compile", "f")
    trainer = started(hippocampus)
    train(trainer, 3)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as measured:
        train(trainer, 5)
    times = {event.key: event.self_device_time_total for event in measured.key_averages()}
    copies = sum(time for name, time in times.items() if any(word in name.lower().split("::")[-1] for word in COPIES))
    share = copies / sum(times.values())
    record_property("share_of_padding_and_copies", share)
    assert share < 0.5


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_ranks_train_one_model(hippocampus):
    environment = os.environ | {"ANATOMIX_ITERATIONS": "4", "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    code = "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
    flags = ["-tr", "AnatomixTrainer", "-p", "nnUNetAnatomixPlans", "-num_gpus", "2"]
    command = [sys.executable, "-c", code, NAME, "3d_fullres", "0", *flags]
    subprocess.run(command, env=environment, check=True, timeout=500)
    (checkpoint,) = hippocampus.results.rglob("checkpoint_final.pth")
    tensors = torch.load(checkpoint, weights_only=False)["network_weights"]
    assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
