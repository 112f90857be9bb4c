"""Commands of ``anatomix-pretrain``, one module per group."""
