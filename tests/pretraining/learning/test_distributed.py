"""Test that processes that train together end cleanly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretraining.learning import distributed

TASKS = Path("/proc/self/task")
CODE = f"""
from pathlib import Path
import sys
import torch.distributed as dist
import pretraining.learning.distributed

def threads():
    return len(list(Path("{TASKS}").iterdir()))

before = threads()
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
assert threads() > before
import torch.distributed.nn  # as torch.compile and optimizers do when they are first used
dist.destroy_process_group()
assert threads() == before, f"{{threads()}} threads are left of {{before}}"
"""


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "backend"),
    [("cpu", 0, 4, "gloo"), ("cuda:0", 4, 4, "cpu:gloo,cuda:nccl"), ("cuda:0", 1, 4, "gloo")],
)
def test_processes_that_share_a_gpu_exchange_by_gloo(monkeypatch, device, gpus, processes, backend):
    """NCCL refuses several processes on one GPU."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert distributed._backend(torch.device(device)) == backend


@pytest.mark.skipif(not TASKS.is_dir(), reason="threads are counted as Linux shows them")
def test_no_thread_of_the_process_group_is_left_when_the_interpreter_ends(tmp_path):
    """Check for leftover threads: one may free a tensor late and abort the finished process."""
    ended = subprocess.run([sys.executable, "-c", CODE, str(tmp_path / "store")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
