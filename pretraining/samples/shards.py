"""A shard: one ``.b2nd`` file with a few consecutive samples of a store, which says of itself what it holds.

Each sample is one compressed chunk, so that reading it decodes no other. The checksums lie in the
file's own metadata: a shard and what is known of it appear together, whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import blosc2
import numpy as np
import torch

from pretraining.common.atomic import atomic_write
from pretraining.common.errors import InputError
from pretraining.engine.synthesis import StoredPair

FORMAT = "anatomix-shard-1"
METADATA = "anatomix"
BLOCK = (64, 64, 32)
"""Voxels that are compressed together, at most: 128 KiB, which the cache of a core holds."""
COMPRESSION = blosc2.CParams(
    codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.NOFILTER], typesize=1, nthreads=1
)
"""Measured on samples of 128 voxels: 2.67 of 6 MiB remain, where the entropy of single voxels
allows 2.7, after 7 ms. Level 3 saves 2 % more and takes four times as long, level 9 4 % in over a
second; LZ4 keeps 3.7 MiB. Shuffling bits or storing differences makes noise larger. One thread:
several write their blocks in whatever order they get finished, and a file's bytes would differ from
run to run.
"""

DECOMPRESSION = blosc2.DParams(nthreads=1)
"""Said, for a file records the number of threads of the process that wrote it, which is the
machine's unless somebody set it.
"""


class PackedSample(NamedTuple):
    """One sample, compressed."""

    chunk: bytes
    checksum: str


class Shard(NamedTuple):
    """What a shard says of itself."""

    store: str
    """Digest of what the store's samples follow from, so that a file of another store is not taken
    for one of this.
    """
    first: int
    """Index of its first sample."""
    side: int
    """Of the volumes, voxels."""
    checksums: tuple[str, ...]
    """Of the samples, in order."""


def checksum(volumes: np.ndarray) -> str:
    """BLAKE2b, 128 bits, of (3, X, Y, Z) uint8: labels, then both views, in C order."""
    return hashlib.blake2b(np.ascontiguousarray(volumes).data, digest_size=16).hexdigest()


def pack(sample: StoredPair) -> PackedSample:
    """Compress a sample; the bytes are a pure function of it."""
    volumes = torch.cat([sample.labels[None], sample.views]).cpu().numpy()
    # The array has to outlive the look into its chunk.
    array = blosc2.asarray(volumes[None], cparams=COMPRESSION, **_layout(volumes.shape[-1]))
    return PackedSample(array.schunk.get_chunk(0), checksum(volumes))


def write_shard(path: Path, samples: Sequence[PackedSample], *, store: str, first: int, side: int) -> None:
    """Write a shard, whole or not at all; its bytes are a pure function of the arguments.

    Notes:
        It is put together in memory, a few dozen MB, and written by Python: a full disk is then an
            :class:`OSError` that says so.
    """
    shape = (len(samples), 3, side, side, side)
    array = blosc2.empty(
        shape, dtype=np.uint8, contiguous=True, cparams=COMPRESSION, dparams=DECOMPRESSION, **_layout(side)
    )
    for i, sample in enumerate(samples):
        array.schunk.update_chunk(i, sample.chunk)
    array.schunk.vlmeta[METADATA] = {
        "format": FORMAT,
        "store": store,
        "first": first,
        "checksums": [sample.checksum for sample in samples],
    }
    with atomic_write(path) as partial:
        partial.write_bytes(array.to_cframe())


def read_shard(path: Path) -> Shard:
    """Read what a shard says of itself, without decoding a sample; cheap, and a file cut short anywhere is found out.

    Raises:
        InputError: If there is no such file, or it was cut short, or is none of ours.
    """
    return _opened(path)[1]


def read_sample(path: Path, position: int, expected: str) -> StoredPair:
    """Read and decode the sample at ``position`` in a shard, and compare it with its checksum.

    Raises:
        InputError: If the file can't be read, or holds something else than what was written.

    Notes:
        The file is read, not mapped: that is as quick (4.4 ms for the 6 MiB of a sample, and 5 ms
            for the checksum), and a disk that fails is
        an error here, where touching a mapped page would end the process.
    """
    array, _ = _opened(path)
    try:
        volumes = array[position]
    except Exception:  # whatever a damaged chunk makes of the decoder
        volumes = None
    if volumes is None or checksum(volumes) != expected:
        raise InputError(f"{path} is damaged: sample {position} in it is not what was written")
    tensor = torch.from_numpy(volumes)
    return StoredPair(tensor[0], tensor[1:])


def verify_shard(path: Path, shard: Shard) -> None:
    """Decode all samples of a shard; InputError names the first that is not what was written."""
    for position, expected in enumerate(shard.checksums):
        read_sample(path, position, expected)


def _layout(side: int) -> dict[str, tuple[int, ...]]:
    return {"chunks": (1, 3, side, side, side), "blocks": (1, 1, *(min(side, size) for size in BLOCK))}


def _opened(path: Path) -> tuple[blosc2.NDArray, Shard]:
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        array = blosc2.open(str(path), mode="r", dparams=DECOMPRESSION)
        says = array.schunk.vlmeta[METADATA]
        shard = Shard(says["store"], says["first"], array.shape[-1], tuple(says["checksums"]))
        shape = (len(shard.checksums), 3, *(shard.side,) * 3)
        fits = says["format"] == FORMAT and array.shape == shape and array.dtype == np.uint8
    except Exception:  # blosc2 has no error of its own: bytes that are no frame raise half a dozen others
        fits = False
    if not fits:
        raise InputError(f"{path} is cut short, damaged or no shard of this version")
    return array, shard
