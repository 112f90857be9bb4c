"""Muting of DICOM and ITK readers, whose warnings quote paths and tag values of patients."""

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
    """Mute the warnings of pydicom and ITK and the standard error of C libraries while reading.

    Notes:
        Use it in one thread at a time: warnings, loggers and descriptor 2 belong to the process.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(), config.disable_value_validation(), _mute_stderr():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _mute_stderr() -> Iterator[None]:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(devnull)
        os.close(saved)
