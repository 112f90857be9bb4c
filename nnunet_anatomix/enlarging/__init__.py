"""Unlabelled scans for training: labelled by registered scans and by networks, with confidence."""
