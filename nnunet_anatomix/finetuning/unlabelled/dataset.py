"""Labelled and unlabelled scans for nnU-Net's data loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2

from nnunet_anatomix.finetuning.unlabelled.folder import CONFIDENCE

_UNLABELLED = "unlabelled/"
"""Prefix of unlabelled scans, as a labelled case may have the same name."""
_COPIES = 100
"""Number of times that a labelled case is listed."""


def draws(labelled: Sequence[str], weights: Mapping[str, float]) -> list[str]:
    """List cases so that uniform draws follow their weights.

    Args:
        labelled: Labelled cases, each of weight 1.
        weights: Unlabelled scan → weight in (0, 1].

    Returns:
        Every case at least once. At least half of the entries are labelled cases; if the weights of
        the unlabelled scans sum to more than the number of labelled cases, they are scaled down.
    """
    scale = min(1.0, len(labelled) / sum(weights.values())) if weights else 1.0
    copies = {f"{_UNLABELLED}{name}": max(1, int(_COPIES * scale * weight)) for name, weight in weights.items()}
    entries = [case for case in labelled for _ in range(max(_COPIES, -(-sum(copies.values()) // len(labelled))))]
    return entries + [name for name, count in copies.items() for _ in range(count)]


class EnlargedDataset:
    """Labelled and unlabelled scans, with the interface that nnU-Net's data loader uses.

    The confidence of the labels takes the place of the previous stage's labels, which the loader
    appends as a second channel of the labels.

    Args:
        labelled: Labelled cases.
        unlabelled: Folder of one fold's labels, see
            :mod:`nnunet_anatomix.finetuning.unlabelled.folder`.
        weights: Unlabelled scan → weight in (0, 1].
    """

    def __init__(self, labelled: nnUNetBaseDataset, unlabelled: Path, weights: Mapping[str, float]) -> None:
        self._labelled = labelled
        self._unlabelled = nnUNetDatasetBlosc2(
            str(unlabelled), list(weights), folder_with_segs_from_previous_stage=str(unlabelled / CONFIDENCE)
        )
        self.identifiers = draws(labelled.identifiers, weights)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict]:
        """Open a case.

        Args:
            identifier: Entry of ``identifiers``.

        Returns:
            Image (C, X, Y, Z), labels (1, X, Y, Z), confidence (X, Y, Z) in per cent, and
            properties.
        """
        if identifier.startswith(_UNLABELLED):
            return self._unlabelled.load_case(identifier.removeprefix(_UNLABELLED))
        data, labels, _, properties = self._labelled.load_case(identifier)
        return data, labels, np.broadcast_to(np.int8(100), labels.shape[1:]), properties
