"""Folds for datasets too small for nnU-Net's five-fold cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

from pretraining.errors import InputError

STOCK_FOLDS = 5
"""nnU-Net's own cross-validation; it needs as many cases."""


def few_shot_splits(cases: Sequence[str]) -> list[dict[str, list[str]]]:
    """Leave-one-out folds; a single case trains and validates on itself.

    Parameters
    ----------
    cases : identifiers of the training cases, 1 to 4 of them.

    Returns
    -------
    One ``{"train": [...], "val": [...]}`` a case, in sorted order, as nnU-Net's ``splits_final.json`` holds them.

    Raises
    ------
    InputError
        If there is no case, or if there are enough for nnU-Net's own folds.
    """
    if not 1 <= len(cases) < STOCK_FOLDS:
        raise InputError(f"leave-one-out is for 1 to {STOCK_FOLDS - 1} cases, found {len(cases)}")
    cases = sorted(cases)
    if len(cases) == 1:
        return [{"train": cases, "val": cases}]
    return [{"train": [other for other in cases if other != case], "val": [case]} for case in cases]
