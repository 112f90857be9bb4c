"""Templates' bits on a device: once there, they stay, up to a bound of memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.engine.execution import upload

RESIDENT_BYTES = 2**30
"""Bound of the bits that stay on a device, for each bank and stream."""
_RESIDENT_SHARE = 1 / 16
"""Bound of the same, as a share of the device's memory."""


def load_packed(bank: TemplateBank, templates: Sequence[int], device: torch.device) -> list[Tensor]:
    """Bits of templates, as :meth:`TemplateBank.packed` gives them.

    Args:
        bank: Where the templates are.
        templates: Their indices; one may come twice.
        device: Where they are needed. On a CPU nothing is kept: the bank is mapped memory.

    Returns:
        For each template (bytes,) uint8 on ``device``.

    Raises:
        InputError: If the file differs from what was written there.
    """
    if device.type == "cpu":
        return [bank.packed(i) for i in templates]
    resident = bank.cached(_Resident, device, _stream(device))
    return resident.bits(templates)


class _Resident:
    """What of a bank lies on one device.

    For one stream, whose order sees to it that copies come before their use.
    """

    def __init__(self, bank: TemplateBank, device: torch.device, stream: int) -> None:
        self._bank, self._device = bank, device
        self._kept: dict[int, Tensor] = {}
        self._free = min(RESIDENT_BYTES, int(_RESIDENT_SHARE * _memory(device)))

    def bits(self, templates: Sequence[int]) -> list[Tensor]:
        found = {i: self._kept[i] for i in templates if i in self._kept}
        if missing := list(dict.fromkeys(i for i in templates if i not in found)):
            packed = [self._bank.packed(i) for i in missing]
            sizes = [len(bits) for bits in packed]
            new = dict(zip(missing, upload(torch.cat(packed), self._device).split(sizes), strict=True))
            found |= new
            # All of one copy or none: its parts share their memory.
            if sum(sizes) <= self._free:
                self._free -= sum(sizes)
                self._kept |= new
        return [found[i] for i in templates]


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _memory(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**40
