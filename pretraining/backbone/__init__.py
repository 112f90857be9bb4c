"""The pretrained network of the paper's Table 7 and its weights on disk."""
