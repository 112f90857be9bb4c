"""Selection of the torch device from a flag."""

from __future__ import annotations

import os

import torch

from pretraining.common.errors import InputError


def resolve_device(name: str) -> torch.device:
    """Return the device that a flag names, without initializing CUDA.

    Args:
        name: ``auto`` (a GPU if available, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``. With
            ``auto`` and ``cuda``, each process of torchrun gets the GPU of its local rank.

    Returns:
        The device; a GPU with its index.

    Raises:
        InputError: For an unknown name or a GPU that does not exist.
    """
    gpus = torch.cuda.device_count()
    selected = ("cuda" if gpus else "cpu") if name == "auto" else name
    if selected == "cuda" and gpus:
        selected = f"cuda:{local_rank()}"
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    if selected not in known:
        hint = (
            "; start one process per GPU with torchrun, or let all share one with --device cuda:0"
            if "LOCAL_RANK" in os.environ
            else "; use one of these or auto"
        )
        raise InputError(f"no device '{selected}' here, found {known}{hint}")
    return torch.device(selected)


def local_rank() -> int:
    """Return torchrun's local rank of this process; 0 for a process without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def has_bf16_units(device: torch.device) -> bool:
    """Tell whether a device multiplies bf16 faster than float32.

    Args:
        device: Device to examine.

    Returns:
        True for GPUs since Ampere and CPUs with AVX-512 BF16 or AMX; False if this version of
        PyTorch cannot tell.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Private functions of torch; a release without them only costs speed.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
