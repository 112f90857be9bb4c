"""Few-shot fine-tuning of the pretrained backbone by stock nnU-Net commands (Sec. 4.2)."""
