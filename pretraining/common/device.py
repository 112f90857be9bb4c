"""The device that a flag names."""

from __future__ import annotations

import os

import torch

from pretraining.common.errors import InputError


def resolve_device(name: str) -> torch.device:
    """Find the device that a flag names; CUDA is counted, not touched.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` and
            ``cuda`` give each process that torchrun has started a GPU of its own, by its number on
            this machine.

    Returns:
        The device; a GPU with its number.

    Raises:
        InputError: For another name or a GPU that is not there.
    """
    gpus = torch.cuda.device_count()
    wanted = ("cuda" if gpus else "cpu") if name == "auto" else name
    if wanted == "cuda" and gpus:
        wanted = f"cuda:{local_rank()}"
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    if wanted not in known:
        hint = ", and torchrun starts one process for each GPU" if "LOCAL_RANK" in os.environ else ", or say auto"
        raise InputError(f"no device '{wanted}' here; there are {known}{hint}")
    return torch.device(wanted)


def local_rank() -> int:
    """Return the number of this process on its machine, as torchrun counts; 0 for a process on its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def has_bf16_units(device: torch.device) -> bool:
    """Whether ``device`` multiplies bf16 faster than float32: a GPU since Ampere, a CPU with AVX-512 BF16 or AMX.

    Where this PyTorch cannot tell, the answer is no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Private in torch; a release without them merely costs speed.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
