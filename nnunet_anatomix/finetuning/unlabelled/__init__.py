"""Training on unlabelled scans, whose voxels count by the confidence of their labels."""
