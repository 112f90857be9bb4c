"""Anatomix inside nnU-Net: few-shot fine-tuning, prediction and registration with pretrained features."""

from pretraining import __version__ as __version__
