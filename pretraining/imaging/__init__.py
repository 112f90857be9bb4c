"""Image files: judged before ITK repairs them, read, and written with a look at what arrived on disk."""
