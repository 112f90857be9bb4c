"""Files of ``torch.save``: each is a zip archive whose parts carry a CRC-32, which ``torch.load`` does not look at."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError


def check_archive(path: str | Path) -> None:
    """Compare every part of a file of ``torch.save`` with its checksum.

    Raises:
        InputError: If the file was cut short or changed, is no zip archive, or unpacks to more than
            it has bytes, which what PyTorch writes never does: then nothing of it is unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size, unpacked = os.path.getsize(path), sum(part.file_size for part in archive.infolist())
            if unpacked > size:
                raise InputError(
                    f"{path} unpacks to {format_bytes(unpacked)}B from {format_bytes(size)}B, which torch.save never writes: not opened"
                )
            damaged = archive.testzip()
    except InputError:
        raise
    except Exception as error:  # a damaged directory raises half a dozen others than zipfile's own
        raise InputError(
            f"{path} is damaged or was not written by torch.save ({error}); copy or make it again"
        ) from None
    if damaged is not None:
        raise InputError(f"{path} is damaged: its part {damaged} is not what was written; copy or make it again")
