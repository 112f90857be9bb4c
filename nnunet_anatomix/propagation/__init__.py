"""Label propagation: registered labelled scans vote on the labels of a new scan."""
