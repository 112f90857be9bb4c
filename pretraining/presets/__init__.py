"""Bundled configurations, one .json file per preset."""
