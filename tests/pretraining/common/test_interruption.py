"""Stop signals affect only the process that receives them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time

import pytest

from pretraining.common.interruption import signal_of, stop_requests, stop_signals_interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_every_request_is_an_interrupt_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as interrupt, stop_signals_interrupt():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert signal_of(interrupt.value) == number and signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.parametrize("handlers", [stop_signals_interrupt, stop_requests])
def test_a_forked_worker_is_ended_as_ever(capfd, handlers):
    """End a forked worker by SIGTERM, as nnU-Net's pools do."""
    with handlers():
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        worker.start()
        time.sleep(0.2)
        worker.terminate()
        worker.join(10)
    assert worker.exitcode == -signal.SIGTERM and capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("handlers", [stop_signals_interrupt, stop_requests])
def test_no_signal_is_lost_in_a_worker_that_is_just_being_forked(handlers):
    """End workers at once, as nnU-Net's pools do that have more workers than items."""
    with handlers():
        for _ in range(20):
            worker = os.fork()
            if not worker:
                try:
                    time.sleep(30)
                finally:
                    os._exit(0)
            os.kill(worker, signal.SIGTERM)
            _, status = os.waitpid(worker, 0)
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


def wait_for_a_lock_of_its_own() -> None:
    """Lock a mutex twice without releasing the interpreter, which no Python handler can end."""
    libc = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.parametrize("handlers", [stop_signals_interrupt, stop_requests])
def test_a_stuck_forked_worker_is_ended(handlers):
    """A lock that another thread held at the fork is never released in the worker."""
    with handlers():
        worker = multiprocessing.get_context("fork").Process(target=wait_for_a_lock_of_its_own)
        worker.start()
        time.sleep(0.3)
        worker.terminate()
        worker.join(10)
        ended = worker.exitcode
        worker.kill()
    assert ended == -signal.SIGTERM
