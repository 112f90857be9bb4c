"""Entry point of ``python -m pretraining``, equal to ``anatomix-pretrain``; torchrun needs it."""

from pretraining.common.known_warnings import hide_known_warnings
from pretraining.common.versions import answer_version

PROGRAM = "anatomix-pretrain"


def main() -> None:
    """Run the ``anatomix-pretrain`` command line."""
    hide_known_warnings()
    answer_version(PROGRAM)
    from pretraining.cli import main as run  # imports torch, which --version does not need

    run()


if __name__ == "__main__":
    main()
