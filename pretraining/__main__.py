"""``python -m pretraining`` is ``anatomix-pretrain``, for torchrun."""

from pretraining.cli import main

if __name__ == "__main__":
    main()
