"""``python -m nnunet_anatomix`` is ``nnunet-anatomix``."""

from pretraining.common.known_warnings import hide_known_warnings
from pretraining.common.versions import answer_version

PROGRAM = "nnunet-anatomix"


def main() -> None:
    """Entry point of ``nnunet-anatomix``."""
    hide_known_warnings()
    answer_version(PROGRAM)
    from nnunet_anatomix.cli import main as run

    run()


if __name__ == "__main__":
    main()
