"""Imaging artefacts (Fig. 12), one per file, each a ``sample_x`` / ``apply_x`` pair.

``sample_x(config, generator)`` draws the parameters and returns None if the artefact does not
occur. ``apply_x(volume, params)`` takes and returns one view (X, Y, Z) float32, draws nothing and
does not change its input. :data:`pretraining.engine.appearance.ARTEFACTS` and
:data:`pretraining.engine.online.ARTEFACTS` list the two chains in the order of application.
"""
