"""Pretrain on synthetic anatomy: templates, previews, training and weights files."""

from __future__ import annotations

import sys

from pretraining.commands.defaults import default_config
from pretraining.commands.samples import preview_command, synthesize_command
from pretraining.commands.templates import templates
from pretraining.commands.training import sweep, train_command
from pretraining.commands.weights import export, import_published, judge
from pretraining.common.command_help import Groups
from pretraining.common.command_line import run_commands


def main() -> None:
    """Run the ``anatomix-pretrain`` command line."""
    run_commands("anatomix-pretrain", _commands, __doc__ or "")


def _commands() -> Groups:
    config = default_config(sys.argv[1:])
    return {
        "Make samples": {
            "templates": templates,
            "preview": preview_command(config),
            "synthesize": synthesize_command(config),
        },
        "Train": {
            "train": train_command(config),
            "sweep": sweep,
        },
        "Use weights": {
            "export": export,
            "judge": judge,
            "import": import_published,
        },
    }
