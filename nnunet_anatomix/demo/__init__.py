"""A few-shot segmentation of synthetic anatomy, from data to pictures."""
