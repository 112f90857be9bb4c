"""Checksum verification of files written by ``torch.save``.

Such a file is a zip archive whose members carry a CRC-32, which ``torch.load`` does not check.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError


def check_archive(path: str | Path) -> None:
    """Compare every member of a file written by ``torch.save`` with its checksum.

    Args:
        path: File to check.

    Raises:
        InputError: If the file is truncated, changed or not a zip archive, or if its members are
            larger than the file. PyTorch never compresses, so such a file is not unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size, unpacked = os.path.getsize(path), sum(member.file_size for member in archive.infolist())
            if unpacked > size:
                raise InputError(
                    f"{path} unpacks to {format_bytes(unpacked)}B from {format_bytes(size)}B, "
                    "which torch.save never writes: not opened"
                )
            damaged = archive.testzip()
    except InputError:
        raise
    except Exception as error:  # a damaged directory raises many types besides zipfile's own
        raise InputError(
            f"{path} is damaged or was not written by torch.save ({error}); copy or create it again"
        ) from None
    if damaged is not None:
        raise InputError(f"{path} is damaged: the checksum of its part {damaged} differs; copy or create it again")


def mentions(path: Path, word: str) -> bool:
    """Tell whether the pickle in a file of ``torch.save`` contains a word; unpickle nothing.

    Args:
        path: File.
        word: Key or name of a class.

    Returns:
        Whether a pickle in the archive has the bytes of the word; false for any other file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                member
                for member in archive.infolist()
                if member.filename.endswith("data.pkl") and member.file_size <= path.stat().st_size
            ]
            return any(word.encode() in archive.read(member) for member in members)
    except (zipfile.BadZipFile, OSError):
        return False
