"""Pretrained networks that the paper compares with (Tables 1, 2 and 6), as JSON files."""
