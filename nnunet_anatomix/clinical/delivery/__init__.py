"""From predictions back to DICOM SEG, NIfTI, pictures and volumes."""
