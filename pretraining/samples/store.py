"""The offline store: samples as the paper keeps them, before the online set (Sec. 3.1).

STORE/config.json            what every sample follows from
STORE/shard-0000032.b2nd     some samples, from number 32 on; see :mod:`pretraining.samples.shards`
STORE/manifest.jsonl         a line for each shard with the checksum of each sample; written when the last shard is there

Which samples a file holds follows from the store alone, not from who makes it. So the files that
several machines put into one folder are one store, and the same one whatever their number; nothing
is merged or copied.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pretraining
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count, check_within
from pretraining.common.config import differences, read_json, to_dict
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock
from pretraining.common.random import SEED_LIMIT
from pretraining.engine.synthesis import EngineConfig, StoredPair
from pretraining.samples.shards import read_sample, read_shard

CONFIG = "config.json"
MANIFEST = "manifest.jsonl"
MAX_SHARD_SAMPLES = 16
MANY_FILES = 1000
MAX_COUNT = 2**40
"""Samples are numbered below this; higher numbers validate."""
_SHARD_NAME = re.compile(r"shard-(\d+)\.b2nd")
AGAIN = "run the same `anatomix-pretrain synthesize` command again, which makes what is missing"
REPAIR = "run the same `anatomix-pretrain synthesize` command again with --verify, which makes damaged files anew"


def samples_per_shard(count: int) -> int:
    """How many samples share a file: one in a small store, so that few samples still keep many processes busy; 16 in a large one.

    Notes:
        120,000 samples of 128 voxels are 7,500 files of 43 MiB: cluster file systems like few
            files, and many have a quota on their number.
    """
    return min(MAX_SHARD_SAMPLES, max(1, count // MANY_FILES))


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """What the samples of a store follow from."""

    count: int
    """Of samples."""
    seed: int
    templates: dict[str, Any]
    """As :func:`pretraining.bank.template_bank.describe_templates` has it."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    device: Literal["cpu", "cuda"] = "cpu"
    """Type of the device that makes the samples; noise differs between them."""
    shard_samples: int = 1
    """Samples a file."""
    software: str = pretraining.__version__
    """Another version may make other samples."""

    def __post_init__(self) -> None:
        check_within(f"[1, {MAX_COUNT}]", count=self.count)
        check_count(shard_samples=self.shard_samples)
        check_within(f"[0, {SEED_LIMIT})", seed=self.seed)

    @property
    def digest(self) -> str:
        """Of all but the number of samples, on which no sample depends."""
        content = to_dict(self)
        del content["count"]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    @property
    def shard_count(self) -> int:
        """Of files."""
        return -(-self.count // self.shard_samples)

    def indices(self, shard: int) -> range:
        """Samples of a file."""
        return range(shard * self.shard_samples, min((shard + 1) * self.shard_samples, self.count))


def shard_path(store: Path, config: StoreConfig, shard: int) -> Path:
    """File of a shard."""
    return store / f"shard-{config.indices(shard)[0]:07d}.b2nd"


def present_shards(store: Path, config: StoreConfig) -> frozenset[int]:
    """Find the shards whose file is there, by listing the folder: a store of any size is begun at once."""
    found = set()
    for path in store.glob("shard-*.b2nd"):
        if (match := _SHARD_NAME.fullmatch(path.name)) and path.is_file():
            shard, rest = divmod(int(match[1]), config.shard_samples)
            if not rest and shard < config.shard_count and path == shard_path(store, config, shard):
                found.add(shard)
    return frozenset(found)


@dataclass(frozen=True)
class MissingSamples:
    """Indices of samples still to be made, in order; takes memory for what is there, not for what is missing.

    Args:
        config: Of the store.
        shards: Those looked at, a share of the store.
        present: Those of them that need not be made.
    """

    config: StoreConfig
    shards: range
    present: frozenset[int]

    @classmethod
    def on_disk(cls, store: Path, config: StoreConfig, shards: range | None = None) -> MissingSamples:
        """The samples of ``shards``, by default all, whose file is not there."""
        shards = range(config.shard_count) if shards is None else shards
        return cls(config, shards, frozenset(shard for shard in present_shards(store, config) if shard in shards))

    @property
    def shard_count(self) -> int:
        """Of the shards to be made."""
        return len(self.shards) - len(self.present)

    def __iter__(self) -> Iterator[int]:
        for shard in self.shards:
            if shard not in self.present:
                yield from self.config.indices(shard)

    def __len__(self) -> int:
        config, last = self.config, self.config.shard_count - 1
        full = self.shard_count * config.shard_samples
        shorter = last in self.shards and last not in self.present
        return full - (config.shard_samples - len(config.indices(last))) * shorter


class Store:
    """A finished store, to be read; :func:`open_store` makes it.

    Attributes:
        path: Its folder.
        config: What its samples follow from.
        checksums: Of all samples.
    """

    def __init__(self, path: Path, config: StoreConfig, checksums: tuple[str, ...]) -> None:
        self.path, self.config, self.checksums = path, config, checksums

    def __len__(self) -> int:
        return self.config.count

    def read(self, index: int) -> StoredPair:
        """Read sample ``index`` from disk, onto the CPU, and compare it with its checksum.

        Raises:
            IndexError: If there is no such sample.
            InputError: If its file has gone, can't be read or is not what was written.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"the store has samples 0 to {len(self) - 1}, asked for {index}")
        shard, position = divmod(index, self.config.shard_samples)
        try:
            return read_sample(shard_path(self.path, self.config, shard), position, self.checksums[index])
        except InputError as error:
            raise InputError(f"{error}; {REPAIR}") from None


def open_store(path: str | Path) -> Store:
    """Open a finished store; its files must be there in full length; their content is compared with its checksum as it is read.

    Raises:
        InputError: If there is no store, or it is unfinished, or a file has gone, was cut short or
            replaced.
    """
    path = Path(path)
    config = read_store_config(path)
    manifest = path / MANIFEST
    if not manifest.is_file():
        there = len(present_shards(path, config))
        raise InputError(f"{path} is not finished: {there} of its {config.shard_count} shards are there; {AGAIN}")
    checksums: list[str] = []
    try:
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        for line in lines:
            if line["first"] != len(checksums):
                raise ValueError
            checksums += line["checksums"]
            file = path / line["file"]
            length = file.stat().st_size if file.is_file() else None
            if length != line["bytes"]:
                found = (
                    "is missing"
                    if length is None
                    else f"has {length} bytes instead of {line['bytes']}: it was cut short or replaced"
                )
                raise InputError(f"{file} {found}; {AGAIN}")
    except InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{manifest} is damaged; delete it and {AGAIN}") from None
    if len(checksums) != config.count:
        raise InputError(
            f"{path} is not finished: {len(checksums)} of its {config.count} samples are in {MANIFEST}; {AGAIN}"
        )
    return Store(path, config, tuple(checksums))


def read_store_config(store: Path) -> StoreConfig:
    """Read the configuration of a store; InputError if there is none."""
    if not (store / CONFIG).is_file():
        raise InputError(f"no store of samples at {store}; make one with `anatomix-pretrain synthesize --out {store}`")
    return read_json(StoreConfig, store / CONFIG)


def reconcile_config(store: Path, wanted: StoreConfig) -> StoreConfig:
    """See that ``store`` can take samples of ``wanted``: it is new, or was begun with the same; a larger count makes it grow.

    Returns:
        ``wanted``, but for ``shard_samples``, which stay as they are in a store that grows.

    Raises:
        InputError: If ``store`` is a file, or a folder of other things, or a store of another
            configuration; the fields that differ are named.
    """
    if store.exists() and not store.is_dir():
        raise InputError(f"{store} is a file; expected a folder for the store")
    if not (store / CONFIG).exists():
        if store.is_dir() and any(not entry.name.startswith(".") for entry in store.iterdir()):
            raise InputError(f"{store} holds other files and no {CONFIG} of a store; name a new or an empty folder")
        return wanted
    try:
        there = read_store_config(store)
    except InputError as error:
        raise InputError(
            f"{store / CONFIG} is of no store of this version; name a new or an empty folder ({error})"
        ) from None
    wanted = replace(wanted, shard_samples=there.shard_samples)
    same_but_larger = replace(wanted, count=there.count) if wanted.count > there.count else wanted
    if changed := differences(there, same_but_larger):
        raise InputError(
            f"{store} was started with another configuration ({'; '.join(changed)}); use that one or name another folder"
        )
    return wanted


def begin_store(store: Path, wanted: StoreConfig) -> StoreConfig:
    """Write the configuration that :func:`reconcile_config` finds, unless it is there.

    Jobs of an array begin a store at once; one at a time decides what it holds. Making shards needs
    no lock, see :func:`pretraining.samples.synthesize.synthesize`.
    """
    config = reconcile_config(store, wanted)
    if (store / CONFIG).exists() and read_store_config(store) == config:
        return config
    with hold_lock(store, wait=True):
        config = reconcile_config(store, wanted)
        write_text(store / CONFIG, json.dumps(to_dict(config), indent=2) + "\n")
    return config


def finish_store(store: Path) -> int:
    """Write the manifest if all shards are there, and return how many are not.

    Several processes may find that theirs was the last: they write the same.
    """
    config = read_store_config(store)
    if missing := config.shard_count - len(present_shards(store, config)):
        return missing
    files = [shard_path(store, config, shard) for shard in range(config.shard_count)]
    lines = list(_manifest(config, files))
    if len(lines) == len(files):
        write_text(store / MANIFEST, "".join(f"{json.dumps(line)}\n" for line in lines))
    return len(files) - len(lines)


def _manifest(config: StoreConfig, files: list[Path]) -> Iterator[dict[str, Any]]:
    """The line of each shard that is what it should be."""
    for number, file in enumerate(files):
        try:
            shard = read_shard(file)
        except InputError:
            continue
        if shard.store == config.digest and len(shard.checksums) == len(config.indices(number)):
            yield {"file": file.name, "bytes": file.stat().st_size, "first": shard.first, "checksums": shard.checksums}
