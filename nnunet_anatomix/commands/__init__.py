"""One module for each command of ``nnunet-anatomix``."""
