"""nnU-Net's own commands, and ours, run as a user types them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pretraining.errors import CommandFailed


def run_command(command: Sequence[str], environment: Mapping[str, str], log_file: Path) -> None:
    """Run a console script of this environment: its progress bars stay visible, what it prints goes to the end of the log.

    Parameters
    ----------
    command : program and arguments.
    environment : all variables of the process.
    log_file : appended to.

    Raises
    ------
    CommandFailed
        If it ends with any other exit code than 0.
    """
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
    with log_file.open("a", encoding="utf-8") as sink:
        sink.write(f"\n$ {' '.join(command)}\n")
        sink.flush()
        result = subprocess.run([program, *command[1:]], env=dict(environment), stdout=sink, check=False)
    if result.returncode:
        raise CommandFailed(f"'{command[0]}' ended with exit code {result.returncode}; its output is in {log_file}")
