"""What the terminal shows and what the log holds: our messages, warnings, and nnU-Net's text."""

from __future__ import annotations

import logging
import os
import warnings

import pytest

from pretraining.common.child import PROGRESS, hides_progress_bars
from pretraining.common.command_line import run_commands
from pretraining.common.command_output import printed_to_log, without_details

OURS, THEIRS = logging.getLogger("pretraining.a"), logging.getLogger("timm.a")


def talk() -> None:
    """Talk."""
    OURS.debug("a detail")
    OURS.info("a message")
    OURS.warning("a warning of ours")
    THEIRS.warning("a warning of theirs")
    THEIRS.error("an error of theirs")
    warnings.warn("torch.jit.interface is old", FutureWarning, stacklevel=1)
    with printed_to_log():
        print("chatter\nof nnU-Net")  # noqa: T201
    OURS.info("bars hidden: %s", hides_progress_bars())


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    def run(*words: str) -> tuple[str, str]:
        monkeypatch.delenv(PROGRESS, raising=False)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        monkeypatch.setattr("sys.argv", ["program", *words, "talk", "--log-file", str(tmp_path / "new" / "log.txt")])
        run_commands("program", lambda: {"All": {"talk": talk, "other": talk}}, "")
        out, err = capsys.readouterr()
        assert not out and PROGRESS not in os.environ
        return err, (tmp_path / "new" / "log.txt").read_text()

    return run


EVERYTHING = ("a detail", "a message", "a warning of ours", "a warning of theirs", "an error", "interface", "chatter")


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ((), ("a message", "a warning of ours", "an error", "bars hidden: None")),
        (("-q",), ("a warning of ours", "an error")),
        (("--verbose",), (*EVERYTHING, "of nnU-Net", "bars hidden: None")),
    ],
    ids=["plain", "quiet", "verbose"],
)
def test_the_terminal_shows_what_users_need_and_the_log_everything(said, flags, shown):
    err, log = said(*flags)
    assert all(text in err for text in shown)
    assert "--verbose" in flags or len(err.splitlines()) == len(shown)
    assert all(text in log for text in (*EVERYTHING, "of nnU-Net"))
    assert "WARNING" in log and f"bars hidden: {True if '-q' in flags else None}" in log


@pytest.mark.parametrize(("level", "expected"), [(logging.INFO, 1), (logging.DEBUG, 3)])
def test_many_equal_steps_log_their_details_only_among_debug_messages(caplog, level, expected):
    with caplog.at_level(level, logger="pretraining"):
        with without_details("pretraining.a"):
            talk_of(logging.getLogger("pretraining.a.deeper"))
        assert len(caplog.records) == expected
        OURS.info("shown again")
    assert caplog.messages[-1] == "shown again"


def talk_of(logger: logging.Logger) -> None:
    """Log one message of each level."""
    logger.debug("a detail")
    logger.info("a message")
    logger.warning("a warning")
