"""Two processes that train together, started as ``torchrun`` starts them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from tests.process_server import PythonProcess


def run_ranks(words: Sequence[object]) -> None:
    """Run a program in two processes of one group, and check that both succeed.

    Args:
        words: ``-m``, module and arguments.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        PythonProcess([sys.executable, *words], env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    for rank in ranks:
        _, errors = rank.communicate()
        assert rank.returncode == 0, errors
