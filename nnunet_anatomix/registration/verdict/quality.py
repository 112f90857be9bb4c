"""Quality of a registration without a reference: what its scans and its start tell.

:func:`nnunet_anatomix.registration.writing.measure` has what the displacement tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.descriptors import DescriptorConfig, Scan, describe, find_foreground
from nnunet_anatomix.registration.formats.matrices import matrix_of
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig, convex_adam
from pretraining.common.triple import triple
from pretraining.imaging.grids import coverage, image_tensor, near_isotropic_grid, resample_image, tensor_image

if TYPE_CHECKING:
    from nnunet_anatomix.registration.register import Registration

_VOXELS = 64**3
"""Largest number of voxels of the grid on which scans are compared."""
_OVERLAP_VOXELS = 32**3
_MIND = DescriptorConfig(feature_weight=0)
"""Descriptors that are compared, whatever the solver compared, so that numbers mean the same."""
_AGAIN = ConvexAdamConfig(
    smoothness=1.25, regularization="diffusion", grid_spacing=4, adam_spacing=2, iterations=(40,), unfold=False
)
"""Registration of the registered pair: coarse, since it only asks what is left."""
_LEAST_VOXELS = 50
"""Least number of voxels from which an agreement is computed."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What tells a usable registration from another; None where it cannot be measured.

    Attributes:
        overlap: Share of the smaller field of view that lies inside the other under the start. The
            displacement does not count: where only one scan is known, nothing measures it.
        agreement_before: Agreement after the start alone.
        agreement: Agreement after registration; see :func:`measure_quality`.
        left_over_mm: Median over the content of the displacement that a coarse registration of the
            registered pair still finds (zero-warp consistency).
        left_over_vox: The same in voxels of the grid on which the scans are compared, whose spacing
            limits what can be found.
        displacement_mm: 95th percentile of the displacement's length, without the start.
        stretch: Largest factor by which the linear start stretches or shrinks along any direction,
            at least 1.
    """

    overlap: float | None
    agreement_before: float | None
    agreement: float | None
    left_over_mm: float | None
    left_over_vox: float | None
    displacement_mm: float | None
    stretch: float | None


@torch.no_grad()
def measure_quality(registration: Registration) -> Quality:
    """Measure the quality of a registration.

    Args:
        registration: Result of a registration.

    Returns:
        The measures.

    Notes:
        Agreement is the correlation, in [-1, 1], of the 12 channels of MIND-SSC, each centred over
        the voxels that count, on a grid of at most 64³ nearly cubic voxels over the fixed scan. The
        voxels that count are known in both scans, and in the foreground (Otsu) of the fixed or of
        the moved scan or next to it: in empty space, noise would be compared with noise, and where
        one scan is empty and the other is not, they disagree.
    """
    fixed = registration.fixed
    grid = near_isotropic_grid(fixed, spacing_mm=min(fixed.GetSpacing()), at_most_voxels=_VOXELS)
    masked = _resample_known(registration, grid)
    compared = [
        _Compared.of(registration, grid, transform, masked)
        for transform in (registration.start.transform, registration.forward)
    ]
    before, after = (one.agreement() for one in compared)
    left_over_mm = compared[1].left_over_mm()
    known = registration.known > 0
    spacing_mm = registration.grid.GetSpacing()
    lengths_mm = (registration.displacement * torch.tensor(spacing_mm).view(3, 1, 1, 1)).norm(dim=0)[known]
    return Quality(
        overlap=_overlap(registration),
        agreement_before=before,
        agreement=after,
        left_over_mm=left_over_mm,
        left_over_vox=None if left_over_mm is None else left_over_mm / max(grid.GetSpacing()),
        displacement_mm=float(np.percentile(lengths_mm.numpy(), 95)) if len(lengths_mm) else None,
        stretch=_stretch(registration.start.transform),
    )


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Fixed scan and moved scan on one grid, and the weight of each voxel."""

    fixed: Tensor
    moved: Tensor
    weight: Tensor
    grid: sitk.Image

    @classmethod
    def of(cls, registration: Registration, grid: sitk.Image, transform: sitk.Transform, masked: Tensor) -> _Compared:
        """Describe the fixed scan, and the moving scan under a transform.

        Args:
            registration: Result of a registration.
            grid: Image on the grid.
            transform: Transform from points of the fixed scan to points of the moving one.
            masked: (X, Y, Z) in {0, 1} on the grid, 1 where the masks of both scans are.
        """
        described, foregrounds = [], []
        known = coverage(registration.moving, grid, transform)
        clips: Any = registration.settings["clip"]
        for scan, placed, covered, clip in zip(
            (registration.fixed, registration.moving),
            (sitk.Transform(), transform),
            (torch.ones_like(known), known),
            clips,
            strict=True,
        ):
            if not covered.any():
                continue
            shown = Scan(image=image_tensor(resample_image(scan, grid, placed)), known=covered, clip=clip)
            described.append(describe(shown, _MIND, pool=1))
            foregrounds.append(find_foreground(shown))
        if len(described) < 2:
            return cls(fixed=known[None], moved=known[None], weight=torch.zeros_like(known), grid=grid)
        content = functional.max_pool3d(torch.maximum(*foregrounds)[None], 3, 1, 1)[0]
        return cls(fixed=described[0], moved=described[1], weight=content * known * masked, grid=grid)

    def agreement(self) -> float | None:
        """Return the correlation of the descriptors."""
        chosen = self.weight > 0
        if int(chosen.sum()) < _LEAST_VOXELS:
            return None
        first, second = (
            (values - values.mean(1, keepdim=True)).double()
            for values in (self.fixed[:, chosen], self.moved[:, chosen])
        )
        energy = first.square().sum() * second.square().sum()
        return float((first * second).sum() / energy.sqrt()) if energy > 0 else None

    def left_over_mm(self) -> float | None:
        """Return the median displacement that a registration of the two still finds."""
        shape = triple(self.weight.shape)
        if not self.weight.any() or min(shape) < _AGAIN.grid_spacing:
            return None
        fixed, moved = (functional.avg_pool3d(values, _AGAIN.pool) for values in (self.fixed, self.moved))
        again = convex_adam(fixed, moved, shape, _AGAIN)
        spacing_mm = torch.tensor(self.grid.GetSpacing()).view(3, 1, 1, 1)
        return (again * spacing_mm).norm(dim=0)[self.weight > 0].median().item()


def _resample_known(registration: Registration, grid: sitk.Image) -> Tensor:
    known = tensor_image(registration.known.float(), registration.grid)
    return image_tensor(resample_image(known, grid, nearest=True))


def _overlap(registration: Registration) -> float:
    """Return the share of the smaller field of view inside the other one, under the start."""
    shares = []
    start = registration.start.transform
    for own, other, transform in (
        (registration.fixed, registration.moving, start),
        (registration.moving, registration.fixed, start.GetInverse() if start.IsLinear() else registration.inverse),
    ):
        grid = near_isotropic_grid(own, spacing_mm=min(own.GetSpacing()), at_most_voxels=_OVERLAP_VOXELS)
        shares.append(coverage(other, grid, transform).mean().item())
    return max(shares)


def _stretch(start: sitk.Transform) -> float | None:
    if not start.IsLinear():
        return None
    factors = np.linalg.svd(matrix_of(start)[:3, :3], compute_uv=False)
    return float(max(factors.max(), 1 / max(factors.min(), 1e-6)))
