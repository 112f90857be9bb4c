"""Description of the model that made a prediction, for DICOM."""

from __future__ import annotations

import json
from pathlib import Path

from nnunet_anatomix.clinical.delivery.dicom_segmentation import Algorithm


def describe_algorithm(plans_file: Path, folder: str) -> Algorithm:
    """Describe a model by its plans and the name of its folder, as far as they tell.

    Args:
        plans_file: ``plans.json`` of the model or of its predictions; may be missing.
        folder: Name of the model's folder, ``TRAINER__PLANS__CONFIGURATION``, or any other name.
    """
    try:
        plans = json.loads(plans_file.read_text(encoding="utf-8"))
        known = {"plans": str(plans.get("plans_name") or ""), "model": str(plans.get("dataset_name") or "")}
    except (OSError, ValueError, AttributeError):
        known = {"plans": "", "model": ""}
    model = known.pop("model")
    if folder.count("__") == 2:
        known |= dict(zip(("trainer", "plans", "configuration"), folder.split("__"), strict=True))
    return Algorithm(model=model, parameters={name: value for name, value in known.items() if value})
