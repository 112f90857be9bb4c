"""The ground floor: files that appear whole or not at all, and results that are checked before success is said."""
