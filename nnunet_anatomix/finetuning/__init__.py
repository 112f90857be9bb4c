"""Few-shot fine-tuning of the pretrained backbone with stock nnU-Net commands (Sec. 4.2).

Importing this package fails with one line if nnU-Net is missing or too old.
"""

from nnunet_anatomix.finetuning.nnunet_guard import require_nnunet

require_nnunet()
