"""The ground floor: files that appear whole or not at all, locks, child commands, batches, tables."""
