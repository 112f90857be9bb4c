"""Few-shot studies: shots × seeds × starts, trained, tested and drawn (Table 1, Fig. 8)."""
