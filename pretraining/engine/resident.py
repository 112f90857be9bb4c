"""Cache of template bits in device memory, up to a bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.engine.execution import upload

RESIDENT_BYTES = 2**30
"""Bound of the cache for each bank and stream, bytes."""
_RESIDENT_SHARE = 1 / 16
"""Bound of the cache as a share of the device's memory."""


def load_packed(bank: TemplateBank, templates: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return the packed bits of templates on a device, see :meth:`TemplateBank.packed`.

    Args:
        bank: Bank of the templates.
        templates: Indices of the templates; one may occur twice.
        device: Device that needs the bits. On a CPU nothing is cached, as the bank is mapped
            memory.

    Returns:
        (bytes,) uint8 on ``device`` for each template.

    Raises:
        InputError: If the bank's file is damaged.
    """
    if device.type == "cpu":
        return [bank.packed(i) for i in templates]
    cache = bank.cached(_DeviceCache, device, _stream(device))
    return cache.bits(templates)


class _DeviceCache:
    """Templates of one bank in the memory of one device.

    A cache serves one stream only: the order of the stream ensures that copies precede their use.
    """

    def __init__(self, bank: TemplateBank, device: torch.device, stream: int) -> None:
        self._bank, self._device = bank, device
        self._kept: dict[int, Tensor] = {}
        self._free = min(RESIDENT_BYTES, int(_RESIDENT_SHARE * _memory(device)))

    def bits(self, templates: Sequence[int]) -> list[Tensor]:
        """Return the bits of templates; upload those that are not cached, all in one copy."""
        found = {i: self._kept[i] for i in templates if i in self._kept}
        if missing := list(dict.fromkeys(i for i in templates if i not in found)):
            packed = [self._bank.packed(i) for i in missing]
            sizes = [len(bits) for bits in packed]
            new = dict(zip(missing, upload(torch.cat(packed), self._device).split(sizes), strict=True))
            found |= new
            # Keep all templates of one copy or none, as they share one allocation.
            if sum(sizes) <= self._free:
                self._free -= sum(sizes)
                self._kept |= new
        return [found[i] for i in templates]


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _memory(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**40
