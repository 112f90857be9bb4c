"""From organ shapes to weights: the data engine, contrastive pretraining and the backbone (no nnU-Net needed)."""

__version__ = "0.1.0"
