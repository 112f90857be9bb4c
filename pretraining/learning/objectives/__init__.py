"""Training objectives: contrastive, label-free and dense."""
