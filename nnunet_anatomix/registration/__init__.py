"""Registration driven by features (Sec. 4.1): two scans, any modalities, any grids."""
