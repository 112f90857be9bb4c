"""Template banks: organ shapes in one file, and balanced draws from them.

``packing`` crops a mask and packs its bits, ``bank_file`` writes and reads the file, and
``template_bank`` offers its masks to the engine, read one by one when they are needed. ``balance``
groups the templates by region of the body and kind of organ. ``pretraining.templates`` builds banks
from label maps.
"""
