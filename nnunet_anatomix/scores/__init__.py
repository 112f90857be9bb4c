"""Scores of segmentations and statistics over subjects."""
