"""Contact sheets of synthetic samples and artefacts."""
