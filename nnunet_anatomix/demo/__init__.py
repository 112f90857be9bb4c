"""Demo: few-shot segmentation of synthetic anatomy, from data to figures."""
