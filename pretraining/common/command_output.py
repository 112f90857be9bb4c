"""Output of a command: what the terminal shows, and what only its log holds."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretraining.common.child import PROGRESS

OUR_PACKAGES = ("pretraining", "nnunet_anatomix", "__main__")
"""Top-level modules of this project; the last is that of ``python -m``."""
CHATTER = "nnunetv2"
"""Logger of the text that nnU-Net prints."""


_NO_BARS = {PROGRESS: "0", "TQDM_DISABLE": "1"}
"""Environment variables that hide the progress bars of our code and of others."""


@dataclass(frozen=True, kw_only=True)
class Verbosity:
    """Amount of output.

    Attributes:
        verbose: Show debug messages, warnings of other packages and the output of nnU-Net.
        quiet: Show warnings and errors only, and no progress bars.
        log_file: File to which everything is appended.
    """

    verbose: bool = False
    quiet: bool = False
    log_file: Path | None = None


@contextlib.contextmanager
def command_output(verbosity: Verbosity) -> Iterator[None]:
    """Log to standard error, and to the log file with times; route warnings of Python to the log.

    Args:
        verbosity: Amount of output.

    Raises:
        OSError: If the log file cannot be written.
    """
    root = logging.getLogger()
    level = logging.DEBUG if verbosity.verbose else logging.WARNING if verbosity.quiet else logging.INFO
    handlers: list[logging.Handler] = []
    if not root.handlers:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(logging.Formatter("%(message)s"))
        terminal.setLevel(level)
        if not verbosity.verbose:
            terminal.addFilter(_is_for_users)
        handlers.append(terminal)
    if verbosity.log_file is not None:
        verbosity.log_file.parent.mkdir(parents=True, exist_ok=True)
        log = logging.FileHandler(verbosity.log_file, encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(log)
    lowest = logging.DEBUG if verbosity.log_file is not None else level
    for package in (*OUR_PACKAGES, CHATTER):
        logging.getLogger(package).setLevel(lowest)
    for handler in handlers:
        root.addHandler(handler)
    before = {name: os.environ.get(name) for name in _NO_BARS}
    if verbosity.quiet:
        os.environ.update(_NO_BARS)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        if verbosity.quiet:
            for name, value in before.items():
                os.environ.pop(name)
                os.environ.update({} if value is None else {name: value})
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _is_for_users(record: logging.LogRecord) -> bool:
    """Tell whether a record is ours, or an error of another package."""
    return record.name.split(".")[0] in OUR_PACKAGES or record.levelno >= logging.ERROR


@contextlib.contextmanager
def printed_to_log() -> Iterator[None]:
    """Send to the log, at level DEBUG, what other packages print inside."""
    with contextlib.redirect_stdout(_LoggedLines(logging.getLogger(CHATTER))):
        yield


@contextlib.contextmanager
def without_details(package: str) -> Iterator[None]:
    """Log only the warnings of a package inside, unless debug messages are logged too.

    Args:
        package: Dotted name, for one of many equal steps that are not worth a line each.
    """
    logger = logging.getLogger(package)
    before = logger.level
    if logger.getEffectiveLevel() > logging.DEBUG:
        logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)


class _LoggedLines(io.TextIOBase):
    """Text stream that logs each line."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._rest = log, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._log.debug("%s", line.rstrip())
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is logged when it ends."""
