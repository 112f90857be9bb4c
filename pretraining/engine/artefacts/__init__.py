"""Imaging artefacts, one a file, each a ``sample_x`` / ``apply_x`` pair (Fig. 12).

``sample_x(config, ..., generator)`` returns None where the artefact does not happen;
``apply_x(volume, params)`` takes and returns one view (X, Y, Z) float32, draws nothing and leaves
its input as it was.
"""
