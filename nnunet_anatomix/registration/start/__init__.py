"""Initial transforms: centres, orientations and affine alignment."""
