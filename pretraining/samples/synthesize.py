"""Synthesis of an offline store, shard by shard, by one process or many, on one machine or many."""

from __future__ import annotations

import errno
import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretraining.bank.template_bank import TemplateBank, describe_templates
from pretraining.common.device import resolve_device
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from pretraining.common.interruption import signal_of, stop_signals_interrupt
from pretraining.common.processes import ProcessLost, imap_unordered
from pretraining.common.random import SEED_LIMIT
from pretraining.engine.synthesis import EngineConfig, check_bank, synthesize_stored
from pretraining.samples.estimate import estimate_cost
from pretraining.samples.shards import PackedSample, pack, read_shard, verify_shard, write_shard
from pretraining.samples.store import (
    MAX_COUNT,
    MissingSamples,
    StoreConfig,
    begin_store,
    finish_store,
    reconcile_config,
    samples_per_shard,
    shard_path,
)

log = logging.getLogger(__name__)

RESUME = "run the same command again to resume; finished shards stay"


@dataclass(frozen=True)
class Share:
    """Share of a store that one machine makes: shards ``number``, ``number + of``, ..."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise InputError(f"expected --shard i/K with 0 <= i < K, for example 0/4, got {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse ``i/K``."""
        match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if not match:
            raise InputError(f"expected --shard i/K with 0 <= i < K, for example 0/4, got {text!r}")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, kw_only=True)
class Request:
    """Request for a store of samples."""

    bank: TemplateBank
    """Organ templates."""
    engine: EngineConfig
    """Configuration of the synthesis."""
    count: int
    """Number of samples."""
    seed: int = 0
    """Seed of the samples."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that makes samples."""

    def __post_init__(self) -> None:
        check_bank(self.bank, self.engine)
        if self.count < 1:
            raise InputError(f"expected --count of at least 1, got {self.count}")
        if self.count > MAX_COUNT:
            raise InputError(f"expected --count of at most {MAX_COUNT}, got {self.count}")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"expected --device cpu or cuda, got {self.device!r}")
        if not 0 <= self.seed < SEED_LIMIT:
            raise InputError(f"expected --seed from 0 to 2**63 - 1, got {self.seed}")

    def config(self) -> StoreConfig:
        """Return the configuration of a new store."""
        return StoreConfig(
            count=self.count,
            seed=self.seed,
            templates=describe_templates(self.bank),
            engine=self.engine,
            device=self.device,
            shard_samples=samples_per_shard(self.count),
        )


def synthesize(
    request: Request, store: Path, *, share: Share | None = None, workers: int = 1, verify: bool = False
) -> int:
    """Synthesize the missing samples of a store, or of one share of it.

    A sample is a pure function of (templates, engine, seed, index): the store's bytes depend
    neither on the number of workers and shares nor on interruptions. Two processes that make the
    same share repeat each other's work but do no harm, because shards are written atomically and
    both write the same bytes.

    Args:
        request: Samples to synthesize.
        store: Folder, new or begun with the same request. A larger ``count`` extends a store.
        share: Share of the store to make. Default: all.
        workers: Number of processes with one thread each; 0 or 1: this process.
        verify: Decode existing samples and make damaged ones again. Otherwise a shard counts as
            present if its file is complete and its metadata match.

    Returns:
        Number of shards of the whole store that are still missing.

    Raises:
        InputError: If the store has another configuration, or its disk is too small.
        CommandFailed: If the disk is full or a worker was killed; finished shards stay.
        Interrupted: After Ctrl-C or SIGTERM; finished shards stay.
    """
    if workers < 0:
        raise InputError(f"expected --workers of at least 0, got {workers}")
    resolve_device(request.device)
    share = share or Share()
    config = reconcile_config(store, request.config())
    own = range(share.number, config.shard_count, share.of)
    with _explain_failures(store), stop_signals_interrupt():
        missing = _find_missing(store, config, own, workers=max(1, workers), verify=verify)
        log.info("%s, share %s: %d of %d shards exist", store, share, len(missing.present), len(own))
        _write_missing(request, store, config, missing, workers=max(1, workers))
        still_missing = finish_store(store)
    log.info(
        "%s: %s",
        store,
        f"{still_missing} shards are still missing" if still_missing else f"all {config.count} samples exist",
    )
    return still_missing


def _write_missing(
    request: Request, store: Path, config: StoreConfig, indices: MissingSamples, *, workers: int
) -> None:
    make = packed_sample_maker(request)
    others = len(MissingSamples.on_disk(store, config)) - len(MissingSamples.on_disk(store, config, indices.shards))
    first = estimate_cost(make, indices, store, workers=workers, others=others)
    begin_store(store, config)
    if not indices:
        return
    rest = islice(indices, len(first), None)
    samples: dict[int, PackedSample] = {}
    # Update rarely in a job's log, where every update is a new line.
    bar = tqdm(total=len(indices), unit="sample", dynamic_ncols=True, mininterval=1.0 if sys.stderr.isatty() else 30.0)
    made = imap_unordered(make, rest, processes=max(1, min(workers, len(indices) - len(first))))
    # Write in a thread, so that workers do not wait for the disk; one shard at a time, to bound
    # memory.
    writing: Future[None] | None = None
    with logging_redirect_tqdm([logging.getLogger()]), bar, closing(made), ThreadPoolExecutor(1) as writer:
        for index, sample in chain(first, made):
            samples[index] = sample
            shard = index // config.shard_samples
            members = config.indices(shard)
            if all(i in samples for i in members):
                if writing:
                    writing.result()
                path, content = shard_path(store, config, shard), [samples.pop(i) for i in members]
                writing = writer.submit(
                    write_shard, path, content, store=config.digest, first=members[0], side=config.engine.side
                )
            bar.update()
        if writing:
            writing.result()


def packed_sample_maker(request: Request) -> Callable[[int], PackedSample]:
    """Return the function from an index to its compressed sample; it can be pickled.

    Args:
        request: Samples to synthesize.
    """
    return functools.partial(_make_sample, request.bank, request.engine, request.seed, request.device)


def _make_sample(bank: TemplateBank, engine: EngineConfig, seed: int, device: str, index: int) -> PackedSample:
    return pack(synthesize_stored(bank, engine, seed=seed, index=index, device=device))


def _find_missing(store: Path, config: StoreConfig, shards: range, *, workers: int, verify: bool) -> MissingSamples:
    """Find the samples of ``shards`` whose file is missing or invalid."""
    find = functools.partial(_find_fault, store, config, verify)
    existing = sorted(MissingSamples.on_disk(store, config, shards).present)
    faults: dict[int, str | None] = {}
    # Without decoding, starting processes would take longer than the work.
    with closing(imap_unordered(find, existing, processes=workers if verify else 1)) as found:
        for shard, fault in tqdm(
            found, total=len(existing), unit="shard", desc="verifying", dynamic_ncols=True, disable=not verify
        ):
            faults[shard] = fault
    for shard in existing:
        if faults[shard]:
            log.warning("made again: %s", faults[shard])
    return MissingSamples(config, shards, frozenset(shard for shard in existing if faults[shard] is None))


def _find_fault(store: Path, config: StoreConfig, verify: bool, number: int) -> str | None:
    """Return the reason to make a shard again, None if it is valid.

    The reason is empty for a missing file and for the last shard of a store that has grown.
    """
    path, expected = shard_path(store, config, number), config.indices(number)
    if not path.exists():
        return ""
    try:
        shard = read_shard(path)
        if (shard.store, shard.first, shard.side) != (config.digest, expected[0], config.engine.side):
            return f"{path} belongs to another store or position"
        if len(shard.checksums) != len(expected):  # the last one of a store that has grown
            return ""
        if verify:
            verify_shard(path, shard)
    except InputError as error:
        return str(error)
    return None


@contextmanager
def _explain_failures(store: Path) -> Iterator[None]:
    """Turn interruptions, lost workers and a full disk into one line each."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(f"{store}: stopped; {RESUME}", signal_of(interrupt)) from None
    except ProcessLost as lost:
        raise CommandFailed(
            f"a worker was killed, most likely because memory ran out, at one of samples {sorted(lost.items)} of "
            f"{store}; {RESUME}, with fewer --workers"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CommandFailed(f"no space left on the disk of {store}: make room, then {RESUME}") from error
