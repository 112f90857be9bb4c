"""Memory estimate of a training step, compared with real steps."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nnunet_anatomix.finetuning.memory import GB, activation_bytes, training_memory_gb
from nnunet_anatomix.finetuning.network import AnatomixNetwork
from pretraining.backbone.unet import UNetConfig
from pretraining.common.device import has_bf16_units

needs_bf16 = pytest.mark.skipif(
    not has_bf16_units(torch.device("cpu")), reason="a CPU without bfloat16 units trains in float32"
)


@needs_bf16
@pytest.mark.parametrize("poolings, pooling, patch", [(4, "max", (32, 48, 64)), (3, "average", (32, 32, 48))])
def test_activation_bytes_match_the_tensors_autograd_saves(poolings, pooling, patch):
    backbone = UNetConfig(width=4, poolings=poolings, pooling=pooling)
    net = AnatomixNetwork(1, 2, width=4, poolings=poolings, pooling=pooling)
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(torch.rand(2, 1, *patch))
    measured = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    # Autocast also saves 16-bit copies of the weights; they are a small share.
    assert activation_bytes(backbone, patch, 2) == pytest.approx(measured, rel=0.1)


def test_the_estimate_grows_with_patch_batch_and_classes():
    base = training_memory_gb(UNetConfig(), (64, 64, 64), 2, 2)
    assert (
        training_memory_gb(UNetConfig(), (64, 64, 80), 2, 2)
        > base
        < training_memory_gb(UNetConfig(), (64, 64, 64), 3, 2)
    )
    assert (
        training_memory_gb(UNetConfig(width=32), (64, 64, 64), 2, 2)
        > base
        < training_memory_gb(UNetConfig(), (64, 64, 64), 2, 20)
    )


STEP = """
import sys, torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunet_anatomix.finetuning.network import AnatomixNetwork
classes = int(sys.argv[1])
options = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
loss = DC_and_CE_loss(options, {}, dice_class=MemoryEfficientSoftDiceLoss)
net = AnatomixNetwork(1, classes)
optimizer = torch.optim.Adam(net.parameters())
def step(side, batch):
    optimizer.zero_grad()
    target = torch.randint(0, classes, (batch, 1, side, side, side)).float()
    loss(net(torch.rand(batch, 1, side, side, side)), target).backward()
    optimizer.step()
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
step(32, 1)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
step(96, 1)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a process's peak memory from /proc")
@needs_bf16
@pytest.mark.slow
@pytest.mark.parametrize("classes", [3, 16])
def test_the_estimate_agrees_with_the_measured_peak_of_a_real_step(classes):
    measured = (
        int(
            subprocess.run(
                [sys.executable, "-c", STEP, str(classes)], capture_output=True, text=True, check=True
            ).stdout
        )
        / GB
    )
    estimated = training_memory_gb(UNetConfig(), (96, 96, 96), 1, classes) - training_memory_gb(
        UNetConfig(), (16, 16, 16), 1, 1
    )
    assert 0.85 < estimated / measured < 1.35
