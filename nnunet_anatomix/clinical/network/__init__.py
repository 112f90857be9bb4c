"""Archives and scanners: DICOMweb (QIDO, WADO, STOW) and DIMSE (C-STORE)."""
