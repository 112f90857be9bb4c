"""The smallest kernel: it shows whether Triton works."""

import triton
import triton.language as tl


@triton.jit
def add_one(numbers, BLOCK: tl.constexpr):
    """Add 1 to int32 numbers, as many as ``BLOCK``."""
    place = numbers + tl.arange(0, BLOCK)
    tl.store(place, tl.load(place) + 1)
