"""Few-shot studies: training and testing over shots × seeds × starts (Table 1, Fig. 8)."""
