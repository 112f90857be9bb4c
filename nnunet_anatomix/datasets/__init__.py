"""The public datasets of the paper (Table 8), brought from their own layout into nnU-Net's raw format."""
