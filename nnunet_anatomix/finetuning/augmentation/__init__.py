"""Augmentation for fine-tuning (Table 9): settings, intensity artefacts, affine warps."""
