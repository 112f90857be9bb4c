"""Trainers that ``nnUNetv2_train -tr`` and ``nnUNetv2_predict`` find by name."""

from nnunet_anatomix.finetuning.stock import AnatomixTrainerStock
from nnunet_anatomix.finetuning.trainer import (
    AnatomixTrainer,
    AnatomixTrainerPaper,
    AnatomixTrainerPaperScratch,
    AnatomixTrainerScratch,
)

__all__ = [
    "AnatomixTrainer",
    "AnatomixTrainerPaper",
    "AnatomixTrainerPaperScratch",
    "AnatomixTrainerScratch",
    "AnatomixTrainerStock",
]
