"""Confidence of labels through the augmentation of a patch."""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform


class WithConfidence(BasicTransform):
    """Apply a transform to image and labels, and move the confidence of the labels along.

    The confidence is the last channel of the labels, per cent. It is interpolated linearly, as a
    regression target. Beyond the scan there is background, which is certain.

    Args:
        transform: Transform of image and labels.
    """

    def __init__(self, transform: BasicTransform) -> None:
        super().__init__()
        self.transform = transform

    def apply(self, data_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        labels, confidence = data_dict["segmentation"].split([1, 1])
        # Transforms fill with 0 beyond the patch, and the loader with -1 beyond the scan.
        doubt = torch.where(confidence < 0, 0.0, 100.0 - confidence)
        result = self.transform(image=data_dict["image"], segmentation=labels, regression_target=doubt)
        confidence = (100 - result.pop("regression_target")).round()
        labels = result["segmentation"].to(torch.int16)
        return {**result, "segmentation": torch.cat([labels, confidence.to(torch.int16)])}
