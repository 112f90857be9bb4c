"""Whether a device gains from bf16."""

from __future__ import annotations

import torch


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
