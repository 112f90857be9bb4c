"""Checks of ``nnunet-anatomix doctor``: requirements of training, prediction and registration."""

from __future__ import annotations

import os
import platform
import pydoc
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from pretraining.common.command_output import printed_to_log
from pretraining.common.errors import InputError
from pretraining.common.processes import available_cores

GB = 2**30
LEAST_DISK_GB = 10.0
"""Disk space for a small preprocessed dataset and its checkpoints, 2^30 bytes."""
LEAST_MEMORY_GB = 8.0
"""Memory for training with nnU-Net's workers on small patches, 2^30 bytes."""
LEAST_SHARED_GB = 1.0
"""Shared memory for batches of nnU-Net's workers, 2^30 bytes; containers often have 64 MB."""
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SETTINGS = ("ANATOMIX_WEIGHTS", "ANATOMIX_ITERATIONS", "ANATOMIX_SEED", "ANATOMIX_DEBUG")


@dataclass(frozen=True)
class Finding:
    """Result of a check; one line of the report.

    Attributes:
        level: Severity: ``ok``, ``warning`` (works, but slowly or not as intended) or ``problem``
            (something will fail).
        what: Description of the result.
        advice: Suggested action; empty if none is needed.
    """

    level: Literal["ok", "warning", "problem"]
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:8}{self.what}" + (f" -> {self.advice}" if self.advice else "")


def examine() -> Iterator[Finding]:
    """Run all checks and yield their findings; an unexpected exception becomes a problem."""
    for check in CHECKS:
        try:
            yield from check()
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split()).removeprefix("Error: ")
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            yield Finding("problem", f"{check.__name__.strip('_')}: {kind}{text}")


def _python() -> Iterator[Finding]:
    yield Finding("ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.prefix}")
    train = shutil.which("nnUNetv2_train")
    if train is None:
        yield Finding(
            "problem",
            "nnUNetv2_train is not on the PATH",
            f"activate the environment, or add {Path(sys.executable).parent}",
        )
    elif (
        Path(train).resolve().parent != Path(sys.executable).parent.resolve()
        and Path(train).parent != Path(sys.executable).parent
    ):
        yield Finding("warning", f"nnUNetv2_train belongs to another environment: {train}", f"activate {sys.prefix}")


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("ok", f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            what = f"GPU {number}: {torch.cuda.get_device_name(number)}, {free / GB:.1f} of {total / GB:.1f} GB free"
            busy = free < 0.5 * total
            yield Finding("warning" if busy else "ok", what, "another program uses it" if busy else "")
            torch.zeros(1, device=f"cuda:{number}").add_(1).item()
    elif torch.backends.mps.is_available():
        yield Finding("ok", "GPU: Apple; use it with -device mps")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "problem",
            "an NVIDIA driver is installed, but torch does not find a GPU",
            "install torch for this driver: pytorch.org",
        )
    else:
        yield Finding(
            "ok", f"no GPU: {available_cores()} cores; add -device cpu to nnU-Net's commands, and shorten trainings"
        )


def _nnunet() -> Iterator[Finding]:
    from nnunet_anatomix.finetuning.nnunet_guard import require_nnunet

    yield Finding("ok", f"nnU-Net {require_nnunet()}")


def _folders() -> Iterator[Finding]:
    for variable in FOLDERS:
        value = os.environ.get(variable)
        if not value:
            yield Finding(
                "problem", f"{variable} is not set", f"export {variable}=/a/folder (nnU-Net's setting_up_paths.md)"
            )
            continue
        folder = Path(value)
        if not folder.is_dir():
            # nnU-Net creates the folders that it writes to, not the one that it reads from.
            missing = f"{variable}={value} does not exist"
            is_read = variable == "nnUNet_raw"
            yield (
                Finding("problem", missing, f"correct {variable}")
                if is_read
                else Finding("warning", missing, "nnU-Net will create it")
            )
            continue
        if not os.access(folder, os.R_OK | os.X_OK):
            yield Finding("problem", f"{variable}={value} cannot be read", "change its permissions")
            continue
        if variable == "nnUNet_raw":
            datasets = sum(path.is_dir() for path in folder.glob("Dataset[0-9][0-9][0-9]_*"))
            advice = "" if datasets else "put datasets there: DatasetXXX_NAME (nnU-Net's dataset_format.md)"
            yield Finding("ok" if datasets else "warning", f"{variable}={value}, {datasets} datasets", advice)
            continue
        yield _check_writable(variable, folder)


def _check_writable(variable: str, folder: Path) -> Finding:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"anatomix")
            file.flush()
    except OSError as error:
        return Finding(
            "problem",
            f"{variable}={folder} cannot be written ({error.strerror})",
            "change its permissions, or free space",
        )
    free_gb = shutil.disk_usage(folder).free / GB
    what = f"{variable}={folder}, {free_gb:.0f} GB free"
    return (
        Finding("ok", what)
        if free_gb >= LEAST_DISK_GB
        else Finding("warning", what, f"free {LEAST_DISK_GB:.0f} GB or more")
    )


def _trainers() -> Iterator[Finding]:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_anatomix.finetuning.trainer import NETWORK

    with printed_to_log():  # nnU-Net prints where it searches
        recursive_find_trainer_class_by_name("AnatomixTrainer")
    if pydoc.locate(NETWORK) is None:
        yield Finding("problem", f"nnU-Net would not find the network {NETWORK}", "reinstall nnunet-anatomix")
    yield Finding("ok", "nnU-Net finds -tr AnatomixTrainer")


def _weights() -> Iterator[Finding]:
    import torch

    from pretraining.backbone.find_weights import find_weights
    from pretraining.backbone.weights import load_weights

    path = find_weights()
    weights = load_weights(path)
    net = weights.network()
    with torch.no_grad():
        features = net(torch.linspace(0, 1, net.config.min_side**3).view(1, 1, *(net.config.min_side,) * 3))
    if not features.isfinite().all() or features.std() == 0:
        yield Finding(
            "problem",
            f"weights {path} compute constant or non-finite features",
            "download the file again, or unset ANATOMIX_WEIGHTS",
        )
        return
    millions = sum(tensor.numel() for tensor in weights.state.values()) / 1e6
    yield Finding("ok", f"weights {path}, {millions:.1f} million values, sha256 {weights.sha256[:12]}")


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    what = f"memory: {memory.available / GB:.1f} of {memory.total / GB:.1f} GB free"
    enough = memory.available >= LEAST_MEMORY_GB * GB
    yield Finding(
        "ok" if enough else "warning", what, "" if enough else "close programs, or plan with --gpu-memory-target 4"
    )
    shared = Path("/dev/shm")  # Linux only
    if shared.is_dir():
        total_gb = shutil.disk_usage(shared).total / GB
        enough = total_gb >= LEAST_SHARED_GB
        advice = "" if enough else "increase it (docker run --shm-size 8g), or set nnUNet_n_proc_DA=0"
        yield Finding("ok" if enough else "problem", f"shared memory for nnU-Net's workers: {total_gb:.1f} GB", advice)


def _workers() -> Iterator[Finding]:
    cores = available_cores()
    for variable, role in (("nnUNet_n_proc_DA", "augment"), ("nnUNet_def_n_proc", "preprocess and export")):
        value = os.environ.get(variable)
        if value is None:
            if variable == "nnUNet_def_n_proc" and cores < 8:  # nnU-Net's default
                yield Finding(
                    "warning",
                    f"nnU-Net will start 8 processes to {role} on {cores} cores",
                    f"export {variable}={cores}",
                )
        elif not value.isdigit():
            yield Finding(
                "problem",
                f"{variable}={value} is not a number of processes",
                f"unset it, or export {variable}={cores}",
            )
        elif int(value) > 2 * cores:
            yield Finding("warning", f"{variable}={value}, on {cores} cores", f"export {variable}={cores}")
        else:
            yield Finding("ok", f"{variable}={value}: processes that {role}")


def _settings() -> Iterator[Finding]:
    from nnunet_anatomix.finetuning.recipe import integer_variable

    for name, value in os.environ.items():
        if not name.startswith("ANATOMIX_") or not value:
            continue
        if name not in SETTINGS:
            yield Finding("warning", f"{name} is not a known variable", f"unset it; known are {', '.join(SETTINGS)}")
            continue
        if name != "ANATOMIX_DEBUG":
            yield Finding("warning", f"{name}={value} overrides the plans", "unset it if this is not intended")
    integer_variable("ANATOMIX_SEED", os.environ, least=0)
    integer_variable("ANATOMIX_ITERATIONS", os.environ, least=1)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _torch,
    _nnunet,
    _folders,
    _trainers,
    _weights,
    _memory,
    _workers,
    _settings,
)
