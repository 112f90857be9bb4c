"""Names of devices resolve to devices, and missing devices give one-line errors."""

from __future__ import annotations

import pytest
import torch

from pretraining.common.device import resolve_device
from pretraining.common.errors import InputError
from pretraining.learning.train import train
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.learning.test_train import TINY


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cuda:-1", "CPU", "", "meta"])
def test_a_device_that_is_not_there_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(InputError, match=rf"no device '{name}' here, found .*'cpu'"):
        resolve_device(name)
    with pytest.raises(InputError, match=f"no device '{name}' here"):
        train(tmp_path / "run", TINY, procedural_bank(2), device=name)
    assert not (tmp_path / "run").exists()


def test_each_process_of_torchrun_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"no device 'cuda:2' here, found .*one process per GPU"):
        resolve_device("cuda")


def test_without_a_gpu_the_processes_of_torchrun_are_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == torch.device("cpu")
