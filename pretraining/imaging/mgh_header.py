"""Headers of volumes of FreeSurfer (``.mgh``, ``.mgz``), by nibabel."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path

from pretraining.common.completeness import inflate
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.volume_header import VolumeHeader

MGH_SUFFIXES = (".mgz", ".mgh", ".mgh.gz")
_HEADER_BYTES = 284
"""Length of a header, before the voxels."""
_DAMAGED = "damaged: it does not begin with an MGH header of FreeSurfer"


def read_mgh_header(path: Path) -> VolumeHeader:
    """Read the header of a volume of FreeSurfer.

    Args:
        path: File with an ending of :data:`MGH_SUFFIXES`.

    Raises:
        Rejected: If it does not begin with such a header.
        OSError: If it cannot be opened.
    """
    from nibabel.freesurfer.mghformat import MGHHeader
    from nibabel.spatialimages import HeaderDataError

    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            content = b"".join(itertools.islice(inflate(file), 1)) if compressed else file.read(_HEADER_BYTES)
        except EOFError:
            content = b""
        except zlib.error:
            raise Rejected(_DAMAGED) from None
    if len(content) < _HEADER_BYTES:
        raise Rejected("truncated: its header is incomplete; copy or download it again")
    try:
        header = MGHHeader(content[:_HEADER_BYTES])
        affine, dtype = header.get_affine(), header.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError):
        raise Rejected(_DAMAGED) from None
    size = tuple(int(side) for side in header["dims"])
    if min(size) < 1:
        raise Rejected(_DAMAGED)
    return VolumeHeader(
        size=size if size[3] > 1 else size[:3],
        values=1,
        spacing_mm=tuple(float(mm) for mm in header["delta"]),
        origin_mm=tuple(float(mm) for mm in affine[:3, 3]),
        dtype=dtype,
        compression="gzip" if compressed else "none",
        data=path,
        offset=header.get_data_offset(),
        header_is_compressed=compressed,
    )
