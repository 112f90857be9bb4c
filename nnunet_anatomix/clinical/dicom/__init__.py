"""DICOM: headers, frames, pixel data and slices."""
