"""Contrastive training of the paper's Figure 3."""
