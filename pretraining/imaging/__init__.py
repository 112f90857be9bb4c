"""Image files: validation before ITK repairs them, reading, and verified writing."""
