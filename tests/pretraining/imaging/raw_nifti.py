"""Writer of NIfTI-1 files with headers that no library would write."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

KINDS = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64}


def raw_nifti(
    path: Path,
    voxels: np.ndarray,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    qform: tuple[int, Sequence[float]] = (0, (0, 0, 0, 0, 0, 0)),
    sform: tuple[int, np.ndarray] = (0, np.zeros((3, 4))),
    qfac: float = 1.0,
    scaling: tuple[float, float] = (0.0, 0.0),
    order: str = "<",
    dims: Sequence[int] | None = None,
    kind: int | None = None,
    keep: int | None = None,
) -> Path:
    """Write a NIfTI-1 file with any header, valid or not.

    Args:
        path: File to write.
        voxels: (X, Y, Z, ...).
        spacing: Spacing of the axes, mm.
        qform: Code, and quaternion (b, c, d) with offset.
        sform: Code, and (3, 4) affine.
        qfac: Sign of the third axis in the qform.
        scaling: Slope and intercept.
        order: Byte order, ``<`` or ``>``.
        dims: Size in the header. Default: the shape of ``voxels``.
        kind: Data type code in the header. Default: that of ``voxels``.
        keep: Number of bytes of the file to keep. Default: all.
    """
    dims = voxels.shape if dims is None else dims
    code = voxels.dtype.str[1:]
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, len(dims), *dims, *[1] * (7 - len(dims)))
    struct.pack_into(f"{order}2h", header, 70, KINDS[code] if kind is None else kind, voxels.dtype.itemsize * 8)
    struct.pack_into(f"{order}8f", header, 76, qfac, *spacing, *[1.0] * (7 - len(spacing)))
    struct.pack_into(f"{order}3f", header, 108, 352.0, *scaling)
    struct.pack_into(f"{order}2h", header, 252, qform[0], sform[0])
    struct.pack_into(f"{order}6f", header, 256, *qform[1])
    struct.pack_into(f"{order}12f", header, 280, *np.ravel(sform[1])[:12])
    header[344:348] = b"n+1\0"
    content = bytes(header) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")
    content = content[: len(content) if keep is None else keep]
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path
