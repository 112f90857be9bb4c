"""Deformable solvers: ConvexAdam and ANTs."""
