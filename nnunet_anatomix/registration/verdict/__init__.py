"""Is a registration usable: measures without a reference, thresholds, verdict, pages."""
