"""Measures of pretrained features, without any training on top."""
