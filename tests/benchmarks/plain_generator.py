"""The paper's generator written plainly with public libraries: the reference for speed.

The libraries are nibabel, SciPy, scikit-image, MONAI and TorchIO.

Every step is the library call that lies nearest (FACTS sections 3 and 4). Nothing is slowed down on
purpose and nothing tuned. Templates are read from ``.nii.gz`` files at every draw, as the published
generator does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
import torchio
from monai import transforms as monai
from scipy import ndimage
from skimage.morphology import ball

REFERENCE_SIDE = 128


def stored_sample(templates: Sequence[Path], side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels (X, Y, Z) and two views (2, X, Y, Z), both uint8: what the paper keeps on disk."""
    labels = label_ensemble(templates, side, rng)
    views = np.stack([view(labels, rng) for _ in range(2)])
    return labels, views


def label_ensemble(templates: Sequence[Path], side: int, rng: np.random.Generator) -> np.ndarray:
    """(X, Y, Z) uint8."""
    labels = np.zeros((side,) * 3, dtype=np.uint8)
    for number in range(1, rng.integers(20, 40, endpoint=True) + 1):
        mask = np.asarray(nibabel.load(templates[rng.integers(len(templates))]).dataobj)
        labels[placed(mask, side, rng)] = number
    labels = ndimage.median_filter(labels, size=3)
    if rng.random() >= 2 / 3:
        return labels
    mask = foreground(side, rng)
    labels = np.where(mask, labels + 1, 0).astype(np.uint8)
    if rng.random() < 1 / 2:
        footprint = ball(rng.integers(2, 4, endpoint=True))
        shell = ndimage.binary_dilation(mask, footprint) & ~ndimage.binary_erosion(mask, footprint, border_value=1)
        labels[shell] = labels.max() + 1
    return labels


def placed(mask: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a template, (X, Y, Z) bool, cropped, padded, mapped and cut to the volume.

    The map is about voxel 0 of the template's periodic repetition.
    """
    mask = mask[ndimage.find_objects(mask.astype(np.uint8))[0]].astype(np.uint8)
    missing = [max(side - n, 0) for n in mask.shape]
    mask = np.pad(mask, [(n // 2, n - n // 2) for n in missing])
    scales = rng.uniform(0.5, 1.5, 3) * rng.choice([-1, 1], 3)
    shear = np.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = rng.uniform(-0.5, 0.5, 3)
    matrix = np.diag(scales) @ rotation(rng.uniform(-180, 180, 3)) @ shear
    return ndimage.affine_transform(
        mask, matrix, offset=rng.uniform(-5, 5, 3), output_shape=(side,) * 3, order=0, mode="grid-wrap", prefilter=False
    ).astype(bool)


def rotation(angles_deg: np.ndarray) -> np.ndarray:
    """(3, 3)."""
    x, y, z = np.deg2rad(angles_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def smooth_noise(side: int, scales: Sequence[float], low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """(X, Y, Z): noise drawn on coarse grids and enlarged, each scale with its own std."""
    total = np.zeros((side,) * 3)
    for scale in scales:
        nodes = int(np.ceil(side / scale))
        coarse = rng.normal(0, rng.uniform(low, high), (nodes,) * 3)
        total += ndimage.zoom(coarse, side / nodes, order=1)
    return total


def foreground(side: int, rng: np.random.Generator) -> np.ndarray:
    """(X, Y, Z) bool: a warped sphere."""
    scale = side / REFERENCE_SIDE
    radius = rng.integers(48, 72, endpoint=True) * scale
    centre = side / 2 + rng.integers(-32, 32, 3, endpoint=True) * scale
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij")).astype(np.float32)
    sphere = ((grid - centre.reshape(3, 1, 1, 1)) ** 2).sum(0) <= radius**2
    # One std per scale for all three components.
    stds = [rng.uniform(scale, 5 * scale) for _ in range(3)]
    for axis in range(3):
        for spacing, std in zip((8, 16, 32), stds, strict=True):
            grid[axis] += smooth_noise(side, [spacing * scale], std, std, rng)
    warped = ndimage.map_coordinates(sphere.astype(np.uint8), grid, order=0, mode="mirror")
    return ndimage.median_filter(warped, size=3).astype(bool)


def view(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One view, (X, Y, Z) uint8."""
    count = int(labels.max()) + 1
    means, stds = rng.uniform(25, 255, count), rng.uniform(5, 20, count)
    if rng.random() < 0.25:
        means[0] = stds[0] = 0
    image = means[labels] + stds[labels] * rng.normal(size=labels.shape)
    image = min_max(np.clip(image, 0, None))
    image = min_max(image * (1 + 0.02 * smooth_noise(labels.shape[0], (4, 8, 16, 32), 0, 5, rng)))
    artefacts = monai.Compose(
        [
            monai.RandBiasField(prob=0.98, coeff_range=(0.0, 0.075)),
            monai.RandKSpaceSpikeNoise(prob=0.2),
            monai.RandAdjustContrast(prob=0.5, gamma=(0.5, 2.0)),
            monai.RandGaussianSmooth(prob=0.5, sigma_x=(0, 0.333), sigma_y=(0, 0.333), sigma_z=(0, 0.333)),
            monai.RandGibbsNoise(prob=0.5, alpha=(0.0, 0.333)),
            monai.RandGaussianSharpen(prob=0.25),
            monai.RandSimulateLowResolution(prob=0.333, zoom_range=(0.5, 1.0)),
        ]
    ).set_random_state(seed=int(rng.integers(2**31)))
    image = np.asarray(artefacts(torch.from_numpy(image[None]).float()))[0]
    return np.round(255 * min_max(np.clip(image, 0, None))).astype(np.uint8)


def varied(labels: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and views after the online set; TorchIO draws from PyTorch's global state."""
    rescale = torchio.RescaleIntensity(out_min_max=(0, 1), percentiles=(0, 99.99))
    shared = torchio.Compose(
        [
            torchio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5, p=0.9),
            torchio.RandomAffine(scales=0.4, degrees=45, p=0.5),
        ]
    )
    independent = torchio.Compose(
        [
            torchio.RandomBlur(p=0.33),
            torchio.RandomNoise(p=0.33),
            torchio.RandomBiasField(p=0.5),
            torchio.RandomGamma(log_gamma=0.4, p=0.5),
            torchio.RandomMotion(p=0.33),
        ]
    )
    images = {
        f"view{i}": rescale(torchio.ScalarImage(tensor=torch.from_numpy(view[None]).float()))
        for i, view in enumerate(views)
    }
    subject = shared(torchio.Subject(labels=torchio.LabelMap(tensor=torch.from_numpy(labels[None])), **images))
    result = [min_max(independent(subject[name]).numpy()[0]) for name in images]
    return subject["labels"].numpy()[0], np.stack(result)


def min_max(image: np.ndarray) -> np.ndarray:
    """Scaled to [0, 1]."""
    low, high = image.min(), image.max()
    return (image - low) / max(high - low, 1e-12)
