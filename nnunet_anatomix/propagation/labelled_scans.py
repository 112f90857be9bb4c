"""Labelled scans of a raw dataset of nnU-Net, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.finetuning.dataset import RawDataset
from nnunet_anatomix.propagation.propagate import Atlas
from pretraining.backbone.inference import Clip
from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import DATASET_FILE, IGNORE, DatasetJson
from pretraining.imaging.grids import ROUNDED_HEADERS_VOX, same_grid
from pretraining.imaging.label_files import label_map
from pretraining.imaging.limits import CT_WINDOW_HU
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.scans import read_image, validate_labels, validate_scan


@dataclass(frozen=True, kw_only=True)
class LabelledScans:
    """Training cases of a dataset, as atlases."""

    dataset: RawDataset

    @cached_property
    def description(self) -> DatasetJson:
        """Content of ``dataset.json``."""
        return DatasetJson(where=f"{self.dataset.name}/{DATASET_FILE}", content=self.dataset.description)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cases, sorted."""
        return tuple(sorted(self.dataset.cases))

    @property
    def ignore(self) -> int | None:
        """Label without a vote."""
        numbers = self.description.labels.get(IGNORE)
        return numbers[0] if numbers else None

    @property
    def clips(self) -> tuple[Clip | None, ...]:
        """Intensity range of each channel: that of soft tissue for CT."""
        return tuple(CT_WINDOW_HU if name.upper() == "CT" else None for name in self.description.channel_names)

    def files(self, name: str) -> list[Path]:
        """Return the files of a case: channels, then labels."""
        case = self.dataset.cases[name]
        return [*map(Path, case["images"]), Path(case["label"])]

    def read(self, name: str) -> Atlas:
        """Read a case.

        Args:
            name: Name of the case.

        Raises:
            InputError: If a file is damaged, or the files are not on one grid.
        """
        *images, label_file = self.files(name)
        channels = read_channels(images, name)
        labels = validate_labels(read_image(label_file, f"labels of {name}"), channels[0], f"labels of {name}")
        try:
            numbers = label_map(labels).labels
        except Rejected as reason:
            raise InputError(f"case '{name}': {label_file.name}: {reason}") from None
        return Atlas(name=name, channels=channels, labels=np.ascontiguousarray(numbers))


def read_channels(files: Sequence[Path], name: str) -> tuple[sitk.Image, ...]:
    """Read the channels of a scan.

    Args:
        files: One file per channel.
        name: Name of the scan, for messages.

    Returns:
        Validated scans on one grid.

    Raises:
        InputError: If a file is damaged, or the files are not on one grid.
    """
    channels = tuple(validate_scan(read_image(file, f"case '{name}'"), f"case '{name}'") for file in files)
    for file, channel in zip(files[1:], channels[1:], strict=True):
        if not same_grid(channel, channels[0], within_vox=ROUNDED_HEADERS_VOX):
            raise InputError(
                f"case '{name}': {file.name} is not on the grid of {files[0].name}: expected {channels[0].GetSize()} "
                f"voxels of {channels[0].GetSpacing()} mm at the same place, found {channel.GetSize()} of "
                f"{channel.GetSpacing()} mm; resample the channels to one grid"
            )
        # Rounded headers must not shift channels against each other.
        channel.CopyInformation(channels[0])
    return channels
