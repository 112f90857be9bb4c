"""Building of template banks from label maps.

``sources`` finds label files in folders and groups them by subject, ``label_names`` reads the names
of numbers, and ``organs`` turns the files of a subject into masks of organs. ``build`` does so for
all subjects in parallel and writes the bank; ``report`` lists its content and all files that are
not used. ``procedural`` makes shapes without any data.
"""
