"""Evaluation of pretrained features without further training."""
