"""Command line for ``python -m nnunet_anatomix``, the same as ``nnunet-anatomix``."""

from pretraining.common.known_warnings import hide_known_warnings
from pretraining.common.versions import answer_version

PROGRAM = "nnunet-anatomix"


def main() -> None:
    """Run ``nnunet-anatomix``; answer ``--version`` before the slow imports."""
    hide_known_warnings()
    answer_version(PROGRAM)
    from nnunet_anatomix.cli import main as run

    run()


if __name__ == "__main__":
    main()
