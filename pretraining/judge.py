"""Whether features ignore appearance and keep anatomy, on real volumes of one subject in several modalities."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import load_weights
from pretraining.engine.seeds import sample_generator
from pretraining.errors import InputError
from pretraining.inference import whole_volume_features
from pretraining.learning.initialization import build

log = logging.getLogger(__name__)

LABELS = "labels_neuromorphometrics.nii.gz"
FROM = "t1"
TO = ("t2", "pd", "ct")


def same_region_rate(first: Tensor, second: Tensor, labels: Tensor, *, count: int, generator: Generator) -> float:
    """Share of voxels whose nearest neighbour in the other modality's features lies in the same region.

    Parameters
    ----------
    first, second : (C, X, Y, Z) features of two aligned images.
    labels : (X, Y, Z) integers, 0 outside all regions.
    count : labelled voxels drawn; the neighbour is sought among the same ones.
    generator : draws them.

    Returns
    -------
    In [0, 1]. Neighbours are by cosine of features whose channels have zero mean over the drawn voxels.
    """
    inside = labels.flatten().nonzero()[:, 0]
    drawn = inside[torch.randperm(len(inside), generator=generator)[:count]]
    regions = labels.flatten()[drawn]

    def directions(features: Tensor) -> Tensor:
        values = features.flatten(1)[:, drawn].T
        return functional.normalize(values - values.mean(dim=0), dim=1)

    nearest = (directions(first) @ directions(second).T).argmax(dim=1)
    return (regions[nearest] == regions).float().mean().item()


def judge(weights: Path, data: Path, *, count: int = 4000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Rates of T1 → T2, PD and CT for ``weights`` and for a random initialization.

    Parameters
    ----------
    weights : a weights file.
    data : folder with ``t1.nii.gz``, ``t2.nii.gz``, ``pd.nii.gz``, ``ct.nii.gz`` and ``labels_neuromorphometrics.nii.gz`` on one grid.

    Returns
    -------
    Name of the network → modality → rate in [0, 1], see :func:`same_region_rate`.

    Raises
    ------
    InputError
        If a volume is missing or lies on another grid.
    """
    volumes = {name: _read(data / f"{name}.nii.gz") for name in (FROM, *TO)}
    labels = _read(data / LABELS).long()
    for name, volume in volumes.items():
        if volume.shape != labels.shape:
            raise InputError(f"{data / name}.nii.gz has {tuple(volume.shape)} voxels, its labels {tuple(labels.shape)}; expected one grid")
    networks = {
        "random init": build(lambda: UNet(UNetConfig()), sample_generator(seed, 0, "initial weights")).eval(),
        str(weights): load_weights(weights).network(),
    }
    rates: dict[str, dict[str, float]] = {}
    for network, net in networks.items():
        features = {name: whole_volume_features(net, volume) for name, volume in volumes.items()}
        rates[network] = {
            name: same_region_rate(features[FROM], features[name], labels, count=count, generator=sample_generator(seed, 0, "judge"))
            for name in TO
        }
        log.info("%s: %s", network, ", ".join(f"{FROM}→{name} {rate:.3f}" for name, rate in rates[network].items()))
    return rates


def _read(path: Path) -> Tensor:
    import SimpleITK as sitk  # not everywhere where training runs

    if not path.is_file():
        raise InputError(f"no volume at {path}; expected a folder like registration/mni_multimodal")
    return torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32))
