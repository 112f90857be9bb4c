"""Differences between a scan and registered atlases, which weight votes and predict Dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan

import numpy as np
import SimpleITK as sitk
import torch
from skimage.segmentation import find_boundaries
from torch import Tensor
from torch.nn.functional import avg_pool3d

from nnunet_anatomix.propagation.fusion import RegisteredAtlas
from nnunet_anatomix.registration.descriptors import Scan, describe
from nnunet_anatomix.registration.prepare import ChannelPair, Problem
from pretraining.imaging.grids import Grid, coverage, image_on, image_tensor, resample_image

DIFFERENCE_POOL = 2
"""Side of the cubes on which scan and moved atlas are compared, voxels of the working grid."""


def difference_map(
    problem: Problem, pairs: Sequence[ChannelPair], grid: sitk.Image, forward: sitk.Transform, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Compare the descriptors of a scan and a registered atlas on cubes of a grid.

    Args:
        problem: Settings of the registration, and its network.
        pairs: Scan and atlas of each channel.
        grid: Image on the grid of the displacement.
        forward: Transform from points of the scan to points of the atlas.
        device: Device to compute on.

    Returns:
        Two (x, y, z) tensors on cubes of :data:`DIFFERENCE_POOL` voxels: the mean squared
        difference, averaged over the pairs, and 1 where the atlas covers the cube, else 0.
    """
    cubes = [side // DIFFERENCE_POOL for side in grid.GetSize()]
    known = torch.ones(cubes)
    total = torch.zeros(cubes)
    config = replace(problem.budget.descriptors, intensity=False)  # which has another weight in each pair
    for pair in pairs:
        described = []
        for image, transform, clip in zip(pair.images, (sitk.Transform(), forward), pair.clips, strict=True):
            here = coverage(image, grid, transform)
            scan = Scan(
                image=image_tensor(resample_image(image, grid, transform)).to(device),
                known=here.to(device) if here.any() else None,
                clip=clip,
            )
            described.append(describe(scan, config, pool=DIFFERENCE_POOL, net=problem.net))
            known = known * avg_pool3d(here[None], DIFFERENCE_POOL)[0].round()
        total += (described[0] - described[1]).square_().mean(0).cpu()
    return total / len(pairs), known


def difference_at_borders(scan: sitk.Image, labels: np.ndarray, atlases: Sequence[RegisteredAtlas]) -> float:
    """Average the difference over the borders of labels, where Dice is lost.

    Args:
        scan: Any image on the scan's grid.
        labels: (X, Y, Z) integers on that grid.
        atlases: Registered atlases.

    Returns:
        Mean over the atlases of the difference in the cubes with a voxel next to another label; in
        all cubes if every voxel has the same label. NaN if no atlas covers these cubes.
    """
    image = image_on(Grid.of(scan), labels.astype(np.float32).transpose(2, 1, 0))
    on_grid = image_tensor(resample_image(image, atlases[0].grid, nearest=True))
    borders = torch.from_numpy(find_boundaries(on_grid.numpy(), connectivity=1)).float()
    at_border = avg_pool3d(borders[None], DIFFERENCE_POOL)[0] > 0
    inside = (at_border if at_border.any() else torch.ones_like(at_border)).float()
    means = [(atlas.difference * atlas.known * inside).sum() / (atlas.known * inside).sum() for atlas in atlases]
    found = [float(mean) for mean in means if mean.isfinite()]
    return float(np.mean(found)) if found else nan
