"""The data engine (Fig.

2, App. B.1): organ templates -> label ensemble -> two views of one anatomy.
"""
