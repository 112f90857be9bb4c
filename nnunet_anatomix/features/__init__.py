"""Features of scans: extraction, files and figures."""
