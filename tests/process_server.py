"""Start processes of tests as forks of a server that has imported torch and nnU-Net already.

A new interpreter needs 3 to 8 seconds for these imports, and many tests start several. The server
runs nothing itself, so its forks start clean: with the arguments, variables and folder that they
are given, and without anything that an earlier test left behind.

With ``ANATOMIX_TEST_SPAWN=1`` every process is a new interpreter, as for users.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

IS_USED = sys.platform == "linux" and not os.environ.get("ANATOMIX_TEST_SPAWN")


def install() -> None:
    """Let the server start what would be spawned, by this process and by its processes."""
    if IS_USED:
        from tests import fork_server

        fork_server.install()


def lighten_planning() -> None:
    """Take what costs seconds per planned dataset, however small, out of nnU-Net.

    It forks twelve processes whenever it lists the files of a dataset, and draws 100 million voxels
    for its statistics of intensities.
    """
    if not IS_USED:
        return
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.utilities import utils

    if utils.Pool is ThreadPool:
        return
    utils.Pool = ThreadPool
    prepare = DatasetFingerprintExtractor.__init__

    @functools.wraps(prepare)
    def draw_fewer_voxels(self: DatasetFingerprintExtractor, *arguments: Any, **options: Any) -> None:
        prepare(self, *arguments, **options)
        self.num_foreground_voxels_for_intensitystats = 1e5

    DatasetFingerprintExtractor.__init__ = draw_fewer_voxels


class PythonProcess:
    """Python process that runs a program; the interface is that of ``subprocess.Popen``.

    Attributes:
        returncode: Exit code once the process has ended, negative for a signal.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike | None = None,
        output: Path | None = None,
        start_new_session: bool = False,
    ) -> None:
        """Start it.

        Args:
            command: ``sys.executable``, then ``-m`` and a module, ``-c`` and a program, or a
                script; then arguments.
            env: All variables. Default: those of this process.
            cwd: Folder to run in. Default: that of this process.
            output: File for standard output and errors. Default: a file for each of them.
            start_new_session: Whether the process leads a session of its own.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="process")
        self._files = (output, output) if output else tuple(Path(self._folder.name) / name for name in ("out", "err"))
        for file in self._files:
            file.touch()
        words = list(map(str, command))
        assert words[0] == sys.executable
        variables = dict(os.environ if env is None else env)
        folder = os.fspath(cwd or os.getcwd())
        if IS_USED:
            arguments = (words[1:], variables, folder, [*map(str, self._files)], start_new_session)
            from tests import fork_server

            self._process: Any = fork_server.Context().Process(target=fork_server.run_program, args=arguments)
            self._process.start()
        else:
            with self._files[0].open("ab") as out, self._files[1].open("ab") as err:
                self._process = subprocess.Popen(
                    words, env=variables, cwd=folder, stdout=out, stderr=err, start_new_session=start_new_session
                )
        self.pid: int = self._process.pid

    def __enter__(self) -> PythonProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode if IS_USED else self._process.poll()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        if IS_USED:
            self._process.join(timeout)
        else:
            self._process.wait(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("process", timeout or 0)
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Wait for the end and return standard output and errors."""
        self.wait()
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in self._files)
        return out, err

    def send_signal(self, which: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_python(command: Sequence[object], **options: Any) -> subprocess.CompletedProcess:
    """Run a program to its end, as ``subprocess.run`` with ``capture_output`` and ``text`` does.

    Args:
        command: As for :class:`PythonProcess`.
        options: As for :class:`PythonProcess`.
    """
    process = PythonProcess(command, **options)
    out, err = process.communicate()
    return subprocess.CompletedProcess(list(map(str, command)), process.wait(), out, err)
