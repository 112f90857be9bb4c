"""Backbone network of the paper's Table 7, its weights files and feature extraction."""
