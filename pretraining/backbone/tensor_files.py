"""Safe loading of tensor files: without unpickling objects, and with bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pretraining.common.archive import check_archive
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMPY_NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
"""Names that a number of NumPy has in a pickle."""
_COUNTERS = "num_batches_tracked"
"""Suffix of the counters of batch normalization, the only integer tensors of a backbone."""


def load_tensor_file(path: Path, expected: str) -> Any:
    """Read a file of ``torch.save`` or safetensors onto the CPU.

    Args:
        path: ``.safetensors`` file; any other suffix is read in PyTorch's format.
        expected: End of every error message: what the file should be, and what to do.

    Returns:
        The content: a state dict, or containers of plain values and tensors.

    Raises:
        InputError: If the file is missing or damaged, contains objects, or claims tensors larger
            than itself.
    """
    if not path.is_file():
        raise InputError(f"no file {path}; {expected}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if _is_archive(path):
            check_archive(path)
        with warnings.catch_warnings(), _numpy_numbers():
            warnings.simplefilter("ignore")  # about the way it was saved; relevant defects are errors below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} needs more memory than is available; {expected}") from None
    except Exception as error:  # a damaged pickle raises many types
        raise InputError(f"{path} is damaged or contains more than tensors ({_reason(error)}); {expected}") from None
    size = path.stat().st_size
    for tensor in _tensors(content):
        if tensor.layout == torch.strided and tensor.numel() * tensor.element_size() > size:
            claimed = format_bytes(tensor.numel() * tensor.element_size())
            raise InputError(f"{path} claims a tensor of {claimed}B, but has {format_bytes(size)}B; {expected}")
    return content


class _Number:
    """Placeholder of a number of NumPy in a file."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _numpy_numbers() -> AbstractContextManager[Any]:
    """Return a context in which numbers of NumPy are skipped, such as the loss in old checkpoints.

    PyTorch refuses them as objects.
    """
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # before PyTorch 2.6
        return nullcontext()
    return torch.serialization.safe_globals([(_Number, name) for name in _NUMPY_NUMBERS])


def check_state(path: Path | str, state: Mapping[Any, Any], *, floats_only: bool = True) -> None:
    """Refuse tensors that a network cannot use.

    Args:
        path: Path of the file for messages.
        state: Names to tensors.
        floats_only: Whether to refuse integers too, except counters of batch normalization.

    Raises:
        InputError: For names that are not text, values that are not plain tensors (sparse,
            quantized, complex), NaN and infinity.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"{path}: expected names with tensors, found {_kind(name)} {str(name)[:60]!r} with {_kind(tensor)}"
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
                raise InputError(f"{path}: {values} of '{name}' are NaN or infinite; use an undamaged checkpoint")
        elif floats_only and not name.endswith(_COUNTERS):
            raise InputError(f"{path}: '{name}' is {tensor.dtype}, expected floating-point numbers")


def _is_archive(path: Path) -> bool:
    """Tell whether a file has PyTorch's format since version 1.6, which is a zip archive."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _tensors(content: Any) -> list[Tensor]:
    """List all tensors in nested containers."""
    found, pending = [], [content]
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            pending.extend(value)
    return found


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__)[:160]
