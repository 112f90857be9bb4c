"""Segmentation datasets that can be prepared, by their names on the command line."""

from __future__ import annotations

from nnunet_anatomix.datasets.amos import AMOS_CT
from nnunet_anatomix.datasets.feta import FETA
from nnunet_anatomix.datasets.l2r_abdomen import L2R_ABDOMEN_MRI
from nnunet_anatomix.datasets.msd_heart import MSD_HEART
from nnunet_anatomix.datasets.neurite_oasis import NEURITE_OASIS
from nnunet_anatomix.datasets.promise12 import PROMISE12
from nnunet_anatomix.datasets.raw_dataset import SegmentationDataset

SEGMENTATION: dict[str, SegmentationDataset] = {
    dataset.key: dataset for dataset in (MSD_HEART, PROMISE12, L2R_ABDOMEN_MRI, FETA, AMOS_CT, NEURITE_OASIS)
}
