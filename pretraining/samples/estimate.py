"""Estimate of the time and disk space that a store needs, from its first samples."""

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
"""Number of samples to measure, and time, seconds, after which two samples suffice."""


def estimate_cost(
    make: Callable[[int], PackedSample],
    indices: Collection[int] | MissingSamples,
    store: Path,
    *,
    workers: int,
    others: int = 0,
) -> list[tuple[int, PackedSample]]:
    """Make the first few samples, and log the time and disk space that all of them need.

    Args:
        make: Function from an index to its sample.
        indices: Indices of the samples to make.
        store: Folder of the store.
        workers: Number of processes that will share the work.
        others: Number of further samples that other processes will write to the same disk.

    Returns:
        The samples made, with their indices.

    Raises:
        InputError: If the disk is too small for ``indices``. If it is too small for the ``others``
            alone, a warning is logged.
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
    # Skip the first sample, whose loops may have been compiled meanwhile.
    measured = times[1:] if len(made) > 1 else times
    seconds = (measured[-1] - measured[0]) / (len(measured) - 1) * len(indices) / workers
    bytes_each = sum(len(sample.chunk) for _, sample in made) / len(made)
    needed, free = bytes_each * len(indices), _free_bytes(store)
    log.info(
        "%s: %d samples to make, about %s by %d workers; about %s of disk, %s free",
        *(store, len(indices), _format_duration(seconds), workers, _format_size(needed), _format_size(free)),
    )
    if needed > free:
        raise InputError(
            f"{len(indices)} samples need about {_format_size(needed)}, the disk of {store} has {_format_size(free)} "
            "free; make room or name another"
        )
    if needed + others * bytes_each > free:
        log.warning(
            "%s: with the other shares about %s are needed, more than is free",
            store,
            _format_size(needed + others * bytes_each),
        )
    return made


def _free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk where ``folder`` is or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


def _format_duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _format_size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
