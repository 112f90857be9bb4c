"""``python -m pretraining`` is ``anatomix-pretrain``, for torchrun."""

from pretraining.common.known_warnings import hide_known_warnings
from pretraining.common.versions import answer_version

PROGRAM = "anatomix-pretrain"


def main() -> None:
    """Entry point of ``anatomix-pretrain``."""
    hide_known_warnings()
    answer_version(PROGRAM)
    from pretraining.cli import main as run  # imports torch, which --version does without

    run()


if __name__ == "__main__":
    main()
