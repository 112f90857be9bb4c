"""How many kernels a GPU would be asked to launch, counted without one.

Tensors of PyTorch's fake mode lie on ``cuda`` and have no content, so that all code takes the ways
of a GPU. Every operation that writes something counts as one launch, and so does every kernel of
Triton. Fourier transforms and sorts take several, convolutions in an unfit layout more than one;
the count is a lower bound that shows what grows or shrinks.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pretraining.backbone import padding, subpixel
from pretraining.common import triton_support
from pretraining.engine import fields, median, mixture, placement, resample, resident
from pretraining.engine.artefacts import gaussian, noise

_PACKAGE = Path(triton_support.__file__).parent
_FREE = {"aten::empty", "aten::empty_strided", "aten::empty_like", "aten::detach"}
_USERS_OF_TRITON = (padding, median, placement, resample, gaussian)


class Launches(TorchDispatchMode):
    """Count launches by the file of this package that makes them; backward passes: ``autograd``."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self.by_file: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        found = function(*args, **(kwargs or {}))
        schema = function._schema
        is_view = any(each.alias_info and not each.alias_info.is_write for each in schema.returns)
        tensors = found if isinstance(found, list | tuple) else [found]
        on_device = any(isinstance(each, torch.Tensor) and each.device.type == self._device for each in tensors)
        if on_device and not is_view and schema.name not in _FREE:
            self.count()
        return found

    def count(self) -> None:
        """One launch, for whoever asks."""
        frame = sys._getframe(1)
        while frame:
            path = Path(frame.f_code.co_filename)
            if _PACKAGE in path.parents and path.name != "triton_support.py":
                self.by_file[path.stem] += 1
                return
            frame = frame.f_back
        self.by_file["autograd"] += 1


@contextmanager
def counted_launches(*, triton: bool, device: str = "cuda") -> Iterator[Launches]:
    """Run what is inside as on a GPU, with Triton or without; on ``device``, without content.

    Only what makes and uses tensors of a device belongs inside: numbers that are drawn on the host
    have no content in there.
    """
    launches = Launches(device)
    with pytest.MonkeyPatch.context() as patch:
        for module in (fields, mixture, noise):
            patch.setattr(module, "noise_generator", lambda seed, device: torch.Generator().manual_seed(seed))
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        for module in _USERS_OF_TRITON:
            patch.setattr(module, "can_run_triton", lambda place: triton and place.type == device)
            patch.setattr(module, "launch", lambda *arguments, **options: launches.count())
        # A cache of its own: what it keeps has no content either, and must not be found by anybody
        # else.
        patch.setattr(subpixel, "_cached_merge_matrix", functools.cache(subpixel._merge_matrix))
        patch.setattr(placement, "_address", lambda bits: 0)
        patch.setattr(resident, "_stream", lambda device: 0)
        patch.setattr(resident, "_memory", lambda device: 2**40)
        with FakeTensorMode(allow_non_fake_inputs=True), launches:
            yield launches
