"""Reading and validation of DICOM headers, frames, pixel data and slices."""
