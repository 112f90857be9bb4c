"""Filling an offline store: whole shards, made by one process or many, here or as a share of what several machines make."""

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

GO_ON = "run the same command again to go on; finished shards stay"


@dataclass(frozen=True)
class Share:
    """What one machine makes of a store: shards ``number``, ``number + of``, ..."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise InputError(f"expected --shard i/K with 0 <= i < K, for example 0/4, got {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``i/K``."""
        match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if not match:
            raise InputError(f"expected --shard i/K with 0 <= i < K, for example 0/4, got {text!r}")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, kw_only=True)
class Request:
    """A store that is wanted."""

    bank: TemplateBank
    engine: EngineConfig
    count: int
    """Of samples."""
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    """Where samples are made."""

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
        """Of a new store."""
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
    """Make what is missing of a store, or of one share of it.

    A sample is a pure function of (templates, engine, seed, index): the store's bytes depend
    neither on the number of workers and shares nor on how often it was stopped. Two processes that
    make the same share do each other no harm, as a shard appears whole and both write the same; nor
    do they help each other.

    Args:
        store: Folder; a new one or one that was begun with the same request. A larger ``count``
            makes a store grow.
        share: What to make; None: all.
        workers: Processes that make samples, each one thread wide; 0 or 1: this one.
        verify: Decode the samples that are there already and make damaged ones anew. Otherwise a
            shard counts if its file is whole and says that it holds what it should.

    Returns:
        How many shards of the whole store are still missing.

    Raises:
        InputError: If the store is of another configuration, or the disk too small for what is to
            come.
        CommandFailed: If the disk is full or a worker was ended from outside; finished shards stay.
        Interrupted: After Ctrl-C or SIGTERM; finished shards stay.
    """
    if workers < 0:
        raise InputError(f"expected --workers of at least 0, got {workers}")
    resolve_device(request.device)
    share = share or Share()
    config = reconcile_config(store, request.config())
    own = range(share.number, config.shard_count, share.of)
    with _told_how_to_go_on(store), stop_signals_interrupt():
        missing = _missing(store, config, own, workers=max(1, workers), verify=verify)
        log.info("%s, share %s: %d of %d shards are there", store, share, len(missing.present), len(own))
        _make(request, store, config, missing, workers=max(1, workers))
        still_missing = finish_store(store)
    log.info(
        "%s: %s",
        store,
        f"{still_missing} shards are still missing" if still_missing else f"all {config.count} samples are there",
    )
    return still_missing


def _make(request: Request, store: Path, config: StoreConfig, indices: MissingSamples, *, workers: int) -> None:
    make = sample_maker(request)
    others = len(MissingSamples.on_disk(store, config)) - len(MissingSamples.on_disk(store, config, indices.shards))
    first = estimate_cost(make, indices, store, workers=workers, others=others)
    begin_store(store, config)
    if not indices:
        return
    rest = islice(indices, len(first), None)
    samples: dict[int, PackedSample] = {}
    # A job's log should not fill with bars.
    bar = tqdm(total=len(indices), unit="sample", dynamic_ncols=True, mininterval=1.0 if sys.stderr.isatty() else 30.0)
    made = imap_unordered(make, rest, processes=max(1, min(workers, len(indices) - len(first))))
    # Written beside: a process that waits for its disk would let the workers wait for their next
    # sample. One at a time, to bound memory.
    writing: Future[None] | None = None
    with logging_redirect_tqdm([logging.getLogger()]), bar, closing(made), ThreadPoolExecutor(1) as writer:
        for index, sample in chain(first, made):
            samples[index] = sample
            shard = index // config.shard_samples
            wanted = config.indices(shard)
            if all(i in samples for i in wanted):
                if writing:
                    writing.result()
                path, content = shard_path(store, config, shard), [samples.pop(i) for i in wanted]
                writing = writer.submit(
                    write_shard, path, content, store=config.digest, first=wanted[0], side=config.engine.side
                )
            bar.update()
        if writing:
            writing.result()


def sample_maker(request: Request) -> Callable[[int], PackedSample]:
    """Index → compressed sample of ``request``; can be sent to another process."""
    return functools.partial(_make_sample, request.bank, request.engine, request.seed, request.device)


def _make_sample(bank: TemplateBank, engine: EngineConfig, seed: int, device: str, index: int) -> PackedSample:
    return pack(synthesize_stored(bank, engine, seed=seed, index=index, device=device))


def _missing(store: Path, config: StoreConfig, shards: range, *, workers: int, verify: bool) -> MissingSamples:
    """Samples of ``shards`` to be made: those whose file is not there or not what it should be."""
    find = functools.partial(_fault, store, config, verify)
    there = sorted(MissingSamples.on_disk(store, config, shards).present)
    faults: dict[int, str | None] = {}
    # Without decoding, a process would take longer to start than to do it.
    with closing(imap_unordered(find, there, processes=workers if verify else 1)) as found:
        for shard, fault in tqdm(
            found, total=len(there), unit="shard", desc="verifying", dynamic_ncols=True, disable=not verify
        ):
            faults[shard] = fault
    for shard in there:
        if faults[shard]:
            log.warning("made anew: %s", faults[shard])
    return MissingSamples(config, shards, frozenset(shard for shard in there if faults[shard] is None))


def _fault(store: Path, config: StoreConfig, verify: bool, number: int) -> str | None:
    """Why a shard has to be made, empty if that needs no word; None if it is there, by what it says or, with ``verify``, what it holds."""
    path, wanted = shard_path(store, config, number), config.indices(number)
    if not path.exists():
        return ""
    try:
        shard = read_shard(path)
        if (shard.store, shard.first, shard.side) != (config.digest, wanted[0], config.engine.side):
            return f"{path} belongs to another store or place"
        if len(shard.checksums) != len(wanted):  # the last one of a store that has grown
            return ""
        if verify:
            verify_shard(path, shard)
    except InputError as reason:
        return str(reason)
    return None


@contextmanager
def _told_how_to_go_on(store: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(f"{store}: stopped; {GO_ON}", signal_of(interrupt)) from None
    except ProcessLost as lost:
        raise CommandFailed(
            f"a worker was ended from outside, most likely because memory ran out, at one of numbers {sorted(lost.items)} of {store}; "
            f"{GO_ON}, with fewer --workers"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CommandFailed(f"no space left on the disk of {store}: make room, then {GO_ON}") from error
