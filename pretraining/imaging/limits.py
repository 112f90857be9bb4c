"""What a sound image file stays within; more is a damaged or hostile header."""

from __future__ import annotations

SANE_SPACING_MM = (1e-4, 100.0)
"""From a tenth of a micrometre to ten centimetres."""
LARGEST_ORIGIN_MM = 1e6
"""A kilometre: beyond it, single precision places no voxel to a tenth of a millimetre."""
LARGEST_VOXELS = 2**31
"""More voxels than any scan has, before or after resampling."""
LARGEST_INFLATION = 1032
"""Deflate, the compression of gzip and zlib, makes no file smaller than by this factor."""
TEXT_HEADER_BYTES = 2**20
"""No header of NRRD or MetaImage is longer."""
