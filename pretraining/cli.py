"""Pretraining on synthetic anatomy: templates, previews, training and weights files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from pretraining.commands.defaults import _default_config
from pretraining.commands.samples import _preview, _synthesize
from pretraining.commands.templates import templates
from pretraining.commands.training import _train, sweep
from pretraining.commands.weights import export, import_published, judge
from pretraining.common.command_line import run_commands

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of ``anatomix-pretrain``."""
    run_commands("anatomix-pretrain", _commands, __doc__ or "")


def _commands() -> dict[str, Callable[..., None]]:
    config = _default_config(sys.argv[1:])
    return {
        "templates": templates,
        "preview": _preview(config),
        "synthesize": _synthesize(config),
        "train": _train(config),
        "sweep": sweep,
        "export": export,
        "judge": judge,
        "import": import_published,
    }
