"""A stand-in for nnU-Net's command, which takes half a minute per call on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.common.errors import CommandFailed

Hook = Callable[[str, Path], None]


def segment(values: np.ndarray) -> np.ndarray:
    """Label what is brighter than water, and brighter still."""
    return (values > -900).astype(np.uint8) + (values > -600)


class StandIn:
    """Replaces ``run_child``: segments each case of ``-i`` by thresholds into ``-o``."""

    def __init__(self, before_case: Hook = lambda case, written: None) -> None:
        self.calls: list[list[str]] = []
        """Cases of each call."""
        self.commands: list[Sequence[str]] = []
        self.before_case = before_case
        """Called with a case and the path that its labels will get."""

    def __call__(self, command: Sequence[str], environment: Mapping[str, str], log_file: Path) -> None:
        options = dict(pairwise(command))
        images = sorted(Path(options["-i"]).glob("*_0000.nii.gz"))
        self.calls.append([image.name.removesuffix("_0000.nii.gz") for image in images])
        self.commands.append(command)
        for path, case in zip(images, self.calls[-1], strict=True):
            written = Path(options["-o"]) / f"{case}.nii.gz"
            self.before_case(case, written)
            image = sitk.ReadImage(str(path))
            labels = sitk.GetImageFromArray(segment(sitk.GetArrayFromImage(image)))
            labels.CopyInformation(image)
            sitk.WriteImage(labels, str(written))


def fail_at(*cases: str) -> Hook:
    """Return a hook that fails at some cases, as a process that lacks memory does."""

    def before_case(case: str, written: Path) -> None:
        if case in cases:
            written.write_bytes(b"\x1f\x8b half a file")
            raise CommandFailed(f"'nnUNetv2_predict' ended at {case}")

    return before_case
