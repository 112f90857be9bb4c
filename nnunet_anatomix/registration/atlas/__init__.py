"""Groupwise affine alignment to an atlas."""
