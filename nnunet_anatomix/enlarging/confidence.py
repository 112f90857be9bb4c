"""How far labels of unlabelled scans can be trusted: per voxel, and per scan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunet_anatomix.propagation.folder import FolderSettings, is_doubtful


def vote_margin(agreement: np.ndarray) -> np.ndarray:
    """Return by how much the elected label is ahead of all others together.

    Args:
        agreement: Share of the votes that the elected label has, in per cent.

    Returns:
        Confidence in per cent, 0 where the elected label has no majority.
    """
    return np.clip(2 * agreement.astype(np.int16) - 100, 0, 100).astype(np.uint8)


def join_network(labels: np.ndarray, confidence: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let a network vote, with as many votes as all registered scans together.

    Args:
        labels: Labels by the registered scans.
        confidence: Their confidence, per cent.
        predicted: Labels by a network.

    Returns:
        Labels and confidence. Where both agree, the confidence is the mean of 100 and its former
        value. Elsewhere the label is the network's, and the confidence half of what the registered
        scans leave.
    """
    signed = np.where(predicted == labels, confidence.astype(np.int16), -confidence.astype(np.int16))
    return predicted, ((100 + signed) // 2).astype(np.uint8)


def expected_dice(record: Mapping, settings: FolderSettings) -> float:
    """Return the Dice to expect of propagated labels; 0 if they are doubtful.

    It is the Dice of a labelled scan that the others label, and less by as much as the scan is more
    different from them than that one.

    Args:
        record: What is recorded of the scan
            (:func:`~nnunet_anatomix.propagation.folder.describe_result`).
        settings: Settings of the propagation.

    Returns:
        In [0, 1]. Without leave-one-out, it is the agreement of the registered scans.
    """
    usual = settings.usual_difference
    if is_doubtful(record, usual):
        return 0.0
    if usual is None or settings.usual_dice is None:
        return float(record["agreement"])
    return settings.usual_dice * min(1.0, usual / max(record["difference"], 1e-12))
