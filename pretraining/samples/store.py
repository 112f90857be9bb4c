"""Offline store of samples before the online augmentation, as in the paper (Sec. 3.1).

STORE/config.json            configuration, which determines every sample
STORE/shard-0000032.b2nd     some samples, from index 32 on; see :mod:`pretraining.samples.shards`
STORE/manifest.jsonl         one line per shard with its checksums, written after the last shard

The samples of a file depend on the store's configuration alone, not on the machine. Several
machines can therefore write into one folder, without merging or copying.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count, check_within
from pretraining.common.config import differences, read_json, to_dict
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock
from pretraining.common.random import SEED_LIMIT
from pretraining.common.versions import VERSION
from pretraining.engine.synthesis import EngineConfig, StoredPair
from pretraining.samples.shards import read_sample, read_shard

CONFIG = "config.json"
MANIFEST = "manifest.jsonl"
MAX_SHARD_SAMPLES = 16
MANY_FILES = 1000
MAX_COUNT = 2**40
"""Upper bound of the number of samples; higher indices are for validation."""
_SHARD_NAME = re.compile(r"shard-(\d+)\.b2nd")
AGAIN = "run the same `anatomix-pretrain synthesize` command again, which makes what is missing"
REPAIR = "run the same `anatomix-pretrain synthesize` command again with --verify, which makes damaged files again"


def samples_per_shard(count: int) -> int:
    """Return the number of samples per file, from 1 in a small store to 16 in a large one.

    Args:
        count: Number of samples of the store.

    Notes:
        In a small store, single samples distribute the work over many processes. In a large one,
        120,000 samples of 128 voxels are 7,500 files of 43 MiB: cluster file systems favour few
        files, and many limit their number.
    """
    return min(MAX_SHARD_SAMPLES, max(1, count // MANY_FILES))


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Configuration of a store, which determines its samples."""

    count: int
    """Number of samples."""
    seed: int
    """Seed of the samples."""
    templates: dict[str, Any]
    """Description by :func:`pretraining.bank.template_bank.describe_templates`."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Configuration of the synthesis."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Type of the device that makes the samples; noise differs between types."""
    shard_samples: int = 1
    """Number of samples per file."""
    software: str = VERSION
    """Software version; another version may make other samples."""

    def __post_init__(self) -> None:
        check_within(f"[1, {MAX_COUNT}]", count=self.count)
        check_count(shard_samples=self.shard_samples)
        check_within(f"[0, {SEED_LIMIT})", seed=self.seed)

    @property
    def digest(self) -> str:
        """Digest of all fields but the number of samples, on which no sample depends."""
        content = to_dict(self)
        del content["count"]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    @property
    def shard_count(self) -> int:
        """Number of files."""
        return -(-self.count // self.shard_samples)

    def indices(self, shard: int) -> range:
        """Return the sample indices of a shard."""
        return range(shard * self.shard_samples, min((shard + 1) * self.shard_samples, self.count))


def shard_path(store: Path, config: StoreConfig, shard: int) -> Path:
    """Return the file of a shard."""
    return store / f"shard-{config.indices(shard)[0]:07d}.b2nd"


def present_shards(store: Path, config: StoreConfig) -> frozenset[int]:
    """Find the shards whose file exists, by listing the folder once."""
    found = set()
    for path in store.glob("shard-*.b2nd"):
        if (match := _SHARD_NAME.fullmatch(path.name)) and path.is_file():
            shard, rest = divmod(int(match[1]), config.shard_samples)
            if not rest and shard < config.shard_count and path == shard_path(store, config, shard):
                found.add(shard)
    return frozenset(found)


@dataclass(frozen=True)
class MissingSamples:
    """Ordered indices of the samples to make; memory grows with the present shards alone.

    Args:
        config: Configuration of the store.
        shards: Shards to consider, a share of the store.
        present: Shards among them that need not be made.
    """

    config: StoreConfig
    shards: range
    present: frozenset[int]

    @classmethod
    def on_disk(cls, store: Path, config: StoreConfig, shards: range | None = None) -> MissingSamples:
        """Find the samples whose file is missing.

        Args:
            store: Folder of the store.
            config: Configuration of the store.
            shards: Shards to consider. Default: all.
        """
        shards = range(config.shard_count) if shards is None else shards
        return cls(config, shards, frozenset(shard for shard in present_shards(store, config) if shard in shards))

    @property
    def shard_count(self) -> int:
        """Number of shards to make."""
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
    """Finished store, opened for reading by :func:`open_store`.

    Attributes:
        path: Folder of the store.
        config: Configuration of the store.
        checksums: Checksums of all samples.
    """

    def __init__(self, path: Path, config: StoreConfig, checksums: tuple[str, ...]) -> None:
        self.path, self.config, self.checksums = path, config, checksums

    def __len__(self) -> int:
        return self.config.count

    def read(self, index: int) -> StoredPair:
        """Read a sample from disk onto the CPU, and verify its checksum.

        Args:
            index: Index of the sample.

        Raises:
            IndexError: If there is no such sample.
            InputError: If its file is missing, unreadable or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"the store has samples 0 to {len(self) - 1}, got index {index}")
        shard, position = divmod(index, self.config.shard_samples)
        try:
            return read_sample(shard_path(self.path, self.config, shard), position, self.checksums[index])
        except InputError as error:
            raise InputError(f"{error}; {REPAIR}") from None


def open_store(path: str | Path) -> Store:
    """Open a finished store and check the length of its files; reading verifies their content.

    Args:
        path: Folder of the store.

    Raises:
        InputError: If there is no store, it is unfinished, or a file is missing, truncated or
            replaced.
    """
    path = Path(path)
    config = read_store_config(path)
    manifest = path / MANIFEST
    if not manifest.is_file():
        present = len(present_shards(path, config))
        raise InputError(f"{path} is not finished: {present} of its {config.shard_count} shards are there; {AGAIN}")
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


def reconcile_config(store: Path, requested: StoreConfig) -> StoreConfig:
    """Check that a store is new or has the requested configuration; a larger count extends it.

    Args:
        store: Folder of the store.
        requested: Configuration of the samples to add.

    Returns:
        ``requested``, with the ``shard_samples`` of an existing store.

    Raises:
        InputError: If ``store`` is a file, a folder with other files, or a store of another
            configuration; the message names the fields that differ.
    """
    if store.exists() and not store.is_dir():
        raise InputError(f"{store} is a file; expected a folder for the store")
    if not (store / CONFIG).exists():
        if store.is_dir() and any(not entry.name.startswith(".") for entry in store.iterdir()):
            raise InputError(f"{store} holds other files and no {CONFIG} of a store; name a new or an empty folder")
        return requested
    try:
        existing = read_store_config(store)
    except InputError as error:
        raise InputError(
            f"{store / CONFIG} is not a store of this version; name a new or an empty folder ({error})"
        ) from None
    requested = replace(requested, shard_samples=existing.shard_samples)
    comparable = replace(requested, count=existing.count) if requested.count > existing.count else requested
    if changed := differences(existing, comparable):
        raise InputError(
            f"{store} was started with another configuration ({'; '.join(changed)}); "
            "use that one or name another folder"
        )
    return requested


def begin_store(store: Path, requested: StoreConfig) -> StoreConfig:
    """Write the configuration that :func:`reconcile_config` returns, unless it exists.

    Jobs of an array may begin a store at the same time; a lock lets one at a time write the
    configuration. Making shards needs no lock, see
    :func:`pretraining.samples.synthesize.synthesize`.

    Args:
        store: Folder of the store.
        requested: Configuration of the samples to add.

    Returns:
        The configuration written.
    """
    config = reconcile_config(store, requested)
    if (store / CONFIG).exists() and read_store_config(store) == config:
        return config
    with hold_lock(store, wait=True):
        config = reconcile_config(store, requested)
        write_text(store / CONFIG, json.dumps(to_dict(config), indent=2) + "\n")
    return config


def finish_store(store: Path) -> int:
    """Write the manifest if all shards exist; return the number of missing ones.

    If several processes finish at once, they write the same manifest.
    """
    config = read_store_config(store)
    if missing := config.shard_count - len(present_shards(store, config)):
        return missing
    files = [shard_path(store, config, shard) for shard in range(config.shard_count)]
    lines = list(_manifest_lines(config, files))
    if len(lines) == len(files):
        write_text(store / MANIFEST, "".join(f"{json.dumps(line)}\n" for line in lines))
    return len(files) - len(lines)


def _manifest_lines(config: StoreConfig, files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the manifest's line of each valid shard."""
    for number, file in enumerate(files):
        try:
            shard = read_shard(file)
        except InputError:
            continue
        if shard.store == config.digest and len(shard.checksums) == len(config.indices(number)):
            yield {"file": file.name, "bytes": file.stat().st_size, "first": shard.first, "checksums": shard.checksums}
