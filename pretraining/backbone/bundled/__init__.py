"""Bundled weights."""
