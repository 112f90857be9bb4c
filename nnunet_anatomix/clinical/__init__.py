"""From clinical folders to nnU-Net's inputs, and predictions back to them."""
