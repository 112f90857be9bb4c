"""Grid search over registration settings."""
