"""Where the second scan of a pair lies in its frame: as it is, behind an empty margin, or turned and scaled.

Scans on one grid also share the place in the frame. A network that encodes the place finds the
right region without looking at the anatomy, so features are judged in frames that differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretraining.common.triple import triple
from pretraining.engine.affine import recentre, rotation_matrix
from pretraining.engine.resample import resample_linear

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One way to lay the second scan.

    Attributes:
        name: Shown in tables.
        margin_vox: Empty voxels added before the first voxel of every axis.
        rotation_deg: Angle about each axis, degrees.
        scale: Magnification of the scan.
    """

    name: str
    margin_vox: int = 0
    rotation_deg: float = 0.0
    scale: float = 1.0

    def matrix(self, shape: Triple) -> np.ndarray:
        """(3, 4) map from a voxel index of the scan to the index of the same place in its frame."""
        middle = (np.array(shape) - 1) / 2
        linear = self.scale * rotation_matrix((self.rotation_deg,) * 3)
        return recentre(np.column_stack([linear, np.zeros(3)]), middle, middle + self.margin_vox)

    def lay(self, image: Tensor) -> Tensor:
        """The scan in its frame, filled up with its least value.

        Args:
            image: (X, Y, Z) float.

        Returns:
            (X + margin, Y + margin, Z + margin). Without a rotation or scale voxels are copied.
            Otherwise they are interpolated, and what leaves the frame is cut.
        """
        shape = triple(side + self.margin_vox for side in image.shape)
        if self.rotation_deg or self.scale != 1:
            matrix = self.matrix(triple(image.shape))
            back = np.linalg.inv(matrix[:, :3])
            return resample_linear(image[None], np.column_stack([back, -back @ matrix[:, 3]]), shape)[0]
        laid = image.new_full(shape, image.min().item())
        laid[self.margin_vox :, self.margin_vox :, self.margin_vox :] = image
        return laid

    def places(self, voxels: Tensor, shape: Triple) -> tuple[Tensor, Tensor]:
        """Where voxels of the scan lie in its frame.

        Args:
            voxels: (n, 3) int64 voxel indices of the scan.
            shape: (X, Y, Z) of the scan.

        Returns:
            (n, 3) int64, the nearest voxels of the frame, and (n,) bool, which of them lie inside
            it.
        """
        matrix = torch.from_numpy(self.matrix(shape))
        found = (voxels.double() @ matrix[:, :3].T + matrix[:, 3]).round().long()
        last = torch.tensor([side + self.margin_vox - 1 for side in shape])
        inside = ((found >= 0) & (found <= last)).all(dim=1)
        return found.clamp(min=0).minimum(last), inside


ALIGNED = Frame(name="aligned")
MOVED = Frame(name="moved", margin_vox=40)
TURNED = Frame(name="turned", rotation_deg=10.0, scale=1.1)
FRAMES = (ALIGNED, MOVED, TURNED)
