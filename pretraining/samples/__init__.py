"""Synthetic samples on their way from the engine to the training loop."""
