"""The device that a flag names."""

from __future__ import annotations

import torch

from pretraining.errors import InputError


def named_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    InputError
        For another name or a GPU that is not there.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    known = {"cpu", *(("cuda",) if gpus else ()), *(f"cuda:{number}" for number in range(gpus))}
    if name not in known:
        raise InputError(f"no device '{name}' here; there are {sorted(known)}, or say auto")
    return torch.device(name)
