"""Anatomix inside nnU-Net: few-shot fine-tuning, prediction and registration with pretrained features."""

__version__ = "0.1.0"
