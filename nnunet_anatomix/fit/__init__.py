"""A model from few labelled scans in one command, and the choice of the scan to label next."""
