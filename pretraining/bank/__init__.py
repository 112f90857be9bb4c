"""Template banks: files, bit-packed masks and balanced draws."""
