"""Folder that nnU-Net scans for trainers.

nnU-Net imports every module of this folder temporarily under its bare name. The only module
therefore just re-exports the trainers.
"""
