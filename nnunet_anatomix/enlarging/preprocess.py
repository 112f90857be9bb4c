"""Preprocessing of a scan with labels and confidence, by nnU-Net's own preprocessor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_anatomix.finetuning.unlabelled.folder import CONFIDENCE


class ScanPreprocessor:
    """Preprocessor of one plan.

    Args:
        plan: Content of the plan.
        configuration: Name of the configuration.
        description: Content of ``dataset.json``.
    """

    def __init__(self, plan: Mapping[str, Any], configuration: str, description: Mapping[str, Any]) -> None:
        self._plans = PlansManager(dict(plan))
        self._configuration: ConfigurationManager = self._plans.get_configuration(configuration)
        self._description = dict(description)
        self._reader = self._plans.image_reader_writer_class()

    def write(self, case: str, channels: list[Path], labels: Mapping[Path, tuple[Path, Path]]) -> None:
        """Preprocess one scan for several sets of labels.

        Args:
            case: Name of the scan.
            channels: One file per channel.
            labels: Folder to write to → files of labels and of confidence, per cent. After the
                first folder, the image is a link.
        """
        image, properties = self._reader.read_images([str(path) for path in channels])
        written: Path | None = None
        for folder, files in labels.items():
            label, confidence = (self._reader.read_seg(str(path))[0] for path in files)
            voxels, seg, own = self._configuration.preprocessor_class(verbose=False).run_case_npy(
                image, label, dict(properties), self._plans, self._configuration, self._description
            )
            _remove(folder, case)
            patch = tuple(self._configuration.patch_size)
            voxels, seg = voxels.astype(np.float32, copy=False), seg.astype(np.int16, copy=False)
            blocks, chunks = comp_blosc2_params(voxels.shape, patch, voxels.itemsize)
            label_blocks, label_chunks = comp_blosc2_params(seg.shape, patch, seg.itemsize)
            nnUNetDatasetBlosc2.save_case(
                voxels,
                seg,
                own,
                str(folder / case),
                chunks=chunks,
                blocks=blocks,
                chunks_seg=label_chunks,
                blocks_seg=label_blocks,
            )
            nnUNetDatasetBlosc2.save_seg(
                self._resample_confidence(confidence, own, voxels.shape[1:]), str(folder / CONFIDENCE / case)
            )
            if written is not None:
                _link(written, folder / f"{case}.b2nd")
            written = folder / f"{case}.b2nd"

    def _resample_confidence(self, confidence: np.ndarray, properties: Mapping[str, Any], shape: Any) -> np.ndarray:
        """Return (X, Y, Z) int8, in per cent on the grid of the preprocessed image."""
        order = self._plans.transpose_forward
        cropped = confidence.transpose([0, *(axis + 1 for axis in order)])[
            (slice(None), *bounding_box_to_slice(properties["bbox_used_for_cropping"]))
        ]
        spacing = [properties["spacing"][axis] for axis in order]
        resampled = self._configuration.resampling_fn_data(
            cropped.astype(np.float32), shape, spacing, self._configuration.spacing
        )
        return np.clip(np.round(resampled[0]), 0, 100).astype(np.int8)


def _remove(folder: Path, case: str) -> None:
    """Remove what a killed call may have left; blosc2 opens no existing file for writing."""
    (folder / CONFIDENCE).mkdir(parents=True, exist_ok=True)
    for path in (folder / f"{case}.b2nd", folder / f"{case}_seg.b2nd", folder / f"{case}.pkl"):
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
