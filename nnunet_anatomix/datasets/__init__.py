"""Conversion of the paper's public datasets (Table 8) to nnU-Net's raw format."""
