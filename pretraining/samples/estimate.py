"""What filling a store will take, told by the first few samples that it needs anyway."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path

from pretraining.common.errors import InputError
from pretraining.samples.shards import PackedSample
from pretraining.samples.store import MissingSamples

log = logging.getLogger(__name__)

TRIALS, TRIAL_SECONDS = 8, 2.0
"""So many samples tell, or fewer once they take that long, but two."""


def estimate_cost(
    make: Callable[[int], PackedSample],
    indices: Collection[int] | MissingSamples,
    store: Path,
    *,
    workers: int,
    others: int = 0,
) -> list[tuple[int, PackedSample]]:
    """Make the first few of ``indices``, and say how long all of them will take and how much disk.

    Args:
        make: Index → sample.
        workers: Processes that will share the work.
        others: Further samples that somebody else will put on the same disk.

    Returns:
        The samples made, with their indices.

    Raises:
        InputError: If all ``indices`` won't fit on the disk. If only the ``others`` won't, that is
            a warning.
    """
    made: list[tuple[int, PackedSample]] = []
    times = [time.monotonic()]
    for index in islice(indices, TRIALS):
        made.append((index, make(index)))
        times.append(time.monotonic())
        if len(made) > 1 and times[-1] - times[1] > TRIAL_SECONDS:
            break
    if not made:
        return made
    # The very first may have had to wait for its loops to be compiled.
    counted = times[1:] if len(made) > 1 else times
    seconds = (counted[-1] - counted[0]) / (len(counted) - 1) * len(indices) / workers
    bytes_each = sum(len(sample.chunk) for _, sample in made) / len(made)
    needed, free = bytes_each * len(indices), _free_bytes(store)
    log.info(
        "%s: %d samples to make, about %s by %d workers; about %s of disk, %s are free",
        *(store, len(indices), _duration(seconds), workers, _size(needed), _size(free)),
    )
    if needed > free:
        raise InputError(
            f"{len(indices)} samples need about {_size(needed)}, the disk of {store} has {_size(free)} free; make room or name another"
        )
    if needed + others * bytes_each > free:
        log.warning(
            "%s: with the other shares it is about %s, more than is free", store, _size(needed + others * bytes_each)
        )
    return made


def _free_bytes(folder: Path) -> int:
    """On the disk where ``folder`` is or will be."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(there).free


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
