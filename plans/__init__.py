"""Plan templates, which tell nnU-Net how to run the weights; installed as ``nnunet_anatomix.plans``."""
