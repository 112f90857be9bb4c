"""The data engine of the paper's Figure 2: organ templates in, pairs of synthetic volumes out."""
