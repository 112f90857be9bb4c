"""Pictures of the data engine's output, written as PNG files.

``samples`` shows labels and views of whole samples, ``artefacts`` each artefact alone.
"""
