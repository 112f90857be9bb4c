"""One module for each group of commands of ``anatomix-pretrain``."""
