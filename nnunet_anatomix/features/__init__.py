"""Features of scans: extraction, files and pictures."""
