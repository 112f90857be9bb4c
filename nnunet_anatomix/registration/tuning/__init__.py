"""The grid search over registration settings."""
