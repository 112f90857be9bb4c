"""Few-shot fine-tuning of the pretrained backbone by stock nnU-Net commands (Sec.

4.2); nothing here imports beside an older nnU-Net.
"""

from nnunet_anatomix.finetuning.nnunet_guard import require_nnunet

require_nnunet()
