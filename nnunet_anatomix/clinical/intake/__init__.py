"""Conversion of clinical folders to inputs of ``nnUNetv2_predict``."""
