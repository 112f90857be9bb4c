"""Test that training selects its GPU before using CUDA, and restores the settings."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import pretraining.learning.train as train_module
from pretraining.learning.cuda_session import cuda_session
from pretraining.learning.distributed import Ranks
from pretraining.learning.train import train
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.learning.test_train import TINY


def test_the_gpu_is_current_and_kernels_are_measured_inside_alone(monkeypatch):
    current = [0]

    @contextmanager
    def device(gpu):
        current.append(gpu.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with pytest.raises(KeyError), cuda_session(torch.device("cuda", 1)):
        assert current[-1] == 1 and torch.backends.cudnn.benchmark
        raise KeyError
    assert not torch.backends.cudnn.benchmark
    with cuda_session(torch.device("cpu")):
        assert not torch.backends.cudnn.benchmark


def test_a_training_enters_it_before_the_process_group_and_the_model(tmp_path, monkeypatch):
    order = []

    @contextmanager
    def session(device):
        order.append("session")
        yield
        order.append("end of session")

    @contextmanager
    def process_group(device):
        order.append("process group")
        yield Ranks()
        order.append("end of process group")

    monkeypatch.setattr(train_module, "cuda_session", session)
    monkeypatch.setattr(train_module, "process_group", process_group)
    train(tmp_path, TINY, procedural_bank(2), device="cpu", workers=0)
    assert order == ["session", "process group", "end of process group", "end of session"]
