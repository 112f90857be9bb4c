"""Frames for the second scan of a pair: unchanged, behind an empty margin, or rotated and scaled.

Scans on one grid also share the position in the frame. A network that encodes the position finds
the right region without using the anatomy, so features are evaluated in frames that differ.
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
    """Placement of the second scan.

    Attributes:
        name: Name shown in tables.
        margin_vox: Number of empty voxels added before the first voxel of every axis.
        rotation_deg: Angle about each axis, degrees.
        scale: Magnification of the scan.
    """

    name: str
    margin_vox: int = 0
    rotation_deg: float = 0.0
    scale: float = 1.0

    def matrix(self, shape: Triple) -> np.ndarray:
        """Return the (3, 4) map from voxel indices of the scan to indices of its frame.

        Args:
            shape: (X, Y, Z) of the scan.
        """
        middle = (np.array(shape) - 1) / 2
        linear = self.scale * rotation_matrix((self.rotation_deg,) * 3)
        return recentre(np.column_stack([linear, np.zeros(3)]), middle, middle + self.margin_vox)

    def apply(self, image: Tensor) -> Tensor:
        """Place a scan in its frame, padded with its lowest value.

        Args:
            image: (X, Y, Z) float scan.

        Returns:
            (X + margin, Y + margin, Z + margin). Without a rotation or scale voxels are copied.
            Otherwise they are interpolated, and parts outside the frame are cropped.
        """
        shape = triple(side + self.margin_vox for side in image.shape)
        if self.rotation_deg or self.scale != 1:
            matrix = self.matrix(triple(image.shape))
            back = np.linalg.inv(matrix[:, :3])
            return resample_linear(image[None], np.column_stack([back, -back @ matrix[:, 3]]), shape)[0]
        framed = image.new_full(shape, image.min().item())
        framed[self.margin_vox :, self.margin_vox :, self.margin_vox :] = image
        return framed

    def map_voxels(self, voxels: Tensor, shape: Triple) -> tuple[Tensor, Tensor]:
        """Map voxels of the scan to the nearest voxels of its frame.

        Args:
            voxels: (n, 3) int64 voxel indices of the scan.
            shape: (X, Y, Z) of the scan.

        Returns:
            (n, 3) int64, the nearest voxels of the frame, and (n,) bool, whether each voxel is
            inside it.
        """
        matrix = torch.from_numpy(self.matrix(shape))
        mapped = (voxels.double() @ matrix[:, :3].T + matrix[:, 3]).round().long()
        last = torch.tensor([side + self.margin_vox - 1 for side in shape])
        inside = ((mapped >= 0) & (mapped <= last)).all(dim=1)
        return mapped.clamp(min=0).minimum(last), inside


ALIGNED = Frame(name="aligned")
MOVED = Frame(name="moved", margin_vox=40)
TURNED = Frame(name="turned", rotation_deg=10.0, scale=1.1)
FRAMES = (ALIGNED, MOVED, TURNED)
