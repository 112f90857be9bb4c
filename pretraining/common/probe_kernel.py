"""Minimal Triton kernel, run to test whether Triton works."""

import triton
import triton.language as tl


@triton.jit
def add_one(numbers, BLOCK: tl.constexpr):
    """Add 1 to the first BLOCK int32 numbers, in place.

    Args:
        numbers: Pointer to the numbers.
        BLOCK: Count of numbers.
    """
    addresses = numbers + tl.arange(0, BLOCK)
    tl.store(addresses, tl.load(addresses) + 1)
