"""Shared infrastructure: atomic writes, locks, child processes, batches, tables and errors."""
