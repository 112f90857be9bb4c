"""Plan templates, which describe the network to nnU-Net; installed as ``nnunet_anatomix.plans``."""
