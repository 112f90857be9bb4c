"""Conversion of clinical folders to nnU-Net inputs, and delivery of predictions."""
