"""Delivery of predictions as DICOM SEG, NIfTI, overview pictures and volumes."""
