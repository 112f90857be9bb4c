"""Files of ``torch.save``: each is a zip archive whose parts carry a CRC-32, which ``torch.load`` does not look at."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pretraining.errors import InputError


def check_archive(path: str | Path) -> None:
    """Compare every part of a file of ``torch.save`` with its checksum.

    Raises:
        InputError: If the file was cut short or changed, or is no zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged directory raises half a dozen others than zipfile's own
        raise InputError(f"{path} is damaged or was not written by torch.save ({error}); copy or make it again") from None
    if damaged is not None:
        raise InputError(f"{path} is damaged: its part {damaged} is not what was written; copy or make it again")
