"""Readers that say nothing: their warnings quote paths and tag values, and so patients."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pydicom import config


@contextmanager
def quiet_readers() -> Iterator[None]:
    """Mute pydicom's and ITK's warnings and what C libraries write to standard error, for the time of reading.

    Notes:
        For one thread at a time: warnings, loggers and descriptor 2 belong to the process.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(), config.disable_value_validation(), _descriptor_muted():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _descriptor_muted() -> Iterator[None]:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
