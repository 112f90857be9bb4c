"""The trained model that made predictions, found to record its weights in the run manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_anatomix.clinical.manifest import ModelFiles, identify_model
from pretraining.imaging.dataset_json import DATASET_FILE

_PLANS_FILE = "plans.json"
_UNKNOWN = "weights unknown: "


def identify_predicting_model(predictions: Path, model: str | None, folder: Path) -> ModelFiles:
    """Identify the model that made predictions, with the hashes of its weights where it is certain.

    A trained model is accepted only if its plans equal those that nnUNetv2_predict wrote to the
    folder of the predictions.

    Args:
        predictions: Folder that nnUNetv2_predict wrote.
        model: Value of ``-m``, if given.
        folder: Folder whose ``dataset.json`` names the labels.

    Returns:
        The files of the model, with a remark if its weights are unknown. Which folds predicted is
            not known here, so those of all folds are listed.
    """
    plans = _read_json(predictions / _PLANS_FILE)
    name, parameters = str(plans.get("dataset_name") or ""), {"plans": str(plans.get("plans_name") or "")}
    if model is not None and (Path(model) / DATASET_FILE).is_file() | (Path(model).parent / DATASET_FILE).is_file():
        candidates = [folder]  # the very folder, one of its folds, or its dataset.json
    elif model is not None:
        candidates = [path for path in sorted(folder.parent.glob("*__*__*")) if path.is_dir()]
    else:
        candidates = _trained_models(name)
    matching = [path for path in candidates if _has_weights(path) and _same_plans(path, plans)]
    if len(matching) != 1:
        known = identify_model(folder, name=name, parameters=parameters, weights=False)
        found = f"{len(matching)} trained models have" if matching else "no trained model has"
        remark = f"{_UNKNOWN}{found} the plans of the predictions; give its folder to -m"
        return replace(known, remark=remark)
    parts = matching[0].name.split("__")
    if len(parts) == 3:
        parameters |= dict(zip(("trainer", "plans", "configuration"), parts, strict=True))
    return identify_model(matching[0], name=name or matching[0].parent.name, parameters=parameters)


def _trained_models(dataset: str) -> list[Path]:
    from nnunetv2.paths import nnUNet_results

    root = nnUNet_results.get()
    return sorted((Path(root) / dataset).glob("*__*__*")) if root and dataset else []


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("fold_*/checkpoint_*.pth"))


def _same_plans(folder: Path, plans: dict[str, Any]) -> bool:
    """Return whether a model has these plans; if none are known, any model may have them."""
    return not plans or _read_json(folder / _PLANS_FILE) == plans


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
