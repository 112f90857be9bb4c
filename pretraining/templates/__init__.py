"""From label maps to a template bank."""
