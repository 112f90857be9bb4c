"""Files of tensors from anywhere: read without unpickling objects, and refused before they take more memory than they hold."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pretraining.common.archive import check_archive
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTERS = "num_batches_tracked"
"""Of batch normalization: the only whole numbers among a backbone's tensors."""


def load_tensor_file(path: Path, expected: str) -> Any:
    """Read what ``torch.save`` or safetensors wrote, onto the CPU.

    Args:
        path: ``.safetensors``, or any other suffix for PyTorch's format.
        expected: Ends the message of every error: what the file should be, and what to do.

    Returns:
        What was saved: a state dict, or containers of plain values and tensors.

    Raises:
        InputError: If there is no such file, it is damaged, holds objects, or claims more than it
            has bytes.
    """
    if not path.is_file():
        raise InputError(f"no file {path}; {expected}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if _is_archive(path):
            check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how it was saved; what matters is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises half of what Python has
        raise InputError(f"{path} is damaged or holds more than tensors ({_reason(error)}); {expected}") from None
    except MemoryError:
        raise InputError(f"{path} asks for more memory than there is; {expected}") from None
    size = path.stat().st_size
    for tensor in _tensors(content):
        if tensor.layout == torch.strided and tensor.numel() * tensor.element_size() > size:
            claimed = format_bytes(tensor.numel() * tensor.element_size())
            raise InputError(f"{path} claims a tensor of {claimed}B, but has {format_bytes(size)}B; {expected}")
    return content


def check_state(path: Path | str, state: Mapping[Any, Any], *, floats_only: bool = True) -> None:
    """Refuse tensors that no network can compute with.

    Args:
        path: Of the file, for messages.
        state: Names to tensors.
        floats_only: Whether whole numbers are refused too, counters of batch normalization aside.

    Raises:
        InputError: For names that are no text, values that are no plain tensors (sparse, quantized,
            complex), NaN and infinity.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"{path} holds {_kind(name)} {str(name)[:60]!r}: {_kind(tensor)}; expected names with tensors"
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            kind = "quantized" if tensor.is_quantized else "complex" if tensor.is_complex() else "sparse or empty"
            raise InputError(f"{path}: '{name}' is {kind}, expected a plain tensor; save the network in full precision")
        if tensor.is_floating_point():
            if tensor.dtype not in _FLOATS:
                raise InputError(
                    f"{path}: '{name}' is {tensor.dtype}, expected 16 to 64 bits; save the network in full precision"
                )
            if wrong := int(tensor.numel() - tensor.isfinite().sum()):
                values = f"{wrong:,} of {tensor.numel():,} values"
                raise InputError(f"{path}: {values} of '{name}' are NaN or infinite; such weights compute nothing")
        elif floats_only and not name.endswith(_COUNTERS):
            raise InputError(f"{path}: '{name}' holds {tensor.dtype}, expected floating-point numbers")


def _is_archive(path: Path) -> bool:
    """Whether it is of the format that PyTorch writes since 1.6; tensors of the older one are read from where they lie."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _tensors(content: Any) -> list[Tensor]:
    found, waiting = [], [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple, set)):
            waiting.extend(one)
    return found


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__)[:160]
