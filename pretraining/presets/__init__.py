"""Configurations by name, one .json file each."""
