"""Imaging artefacts, one a file, each a ``sample_x`` / ``apply_x`` pair."""
