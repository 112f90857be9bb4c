"""The folder that nnU-Net scans for trainers.

nnU-Net imports every module here under its bare name and forgets it again, so there is one, which
only re-exports.
"""
