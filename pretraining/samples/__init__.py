"""Data pipeline of synthetic samples, from the engine to the training loop."""
