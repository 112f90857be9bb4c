"""Write the CT and the MR of two people as a dataset of nnU-Net with the organs that both have.

``python -m tests.benchmarks.abdomen_dataset --data DATA --out nnUNet_raw``

The one channel is named MR, so that no clip of CT is applied to both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.benchmarks.label_propagation import abdomen_names, abdomen_pair

NAME = "Dataset904_AbdomenCTMR"


def write_dataset(data: Path, raw: Path) -> Path:
    """Write the dataset below a folder of raw datasets, and return its folder."""
    source = data / "registration" / "abdomen_ct_mr"
    pair, out = abdomen_pair(source), raw / NAME
    for part in ("imagesTr", "labelsTr"):
        (out / part).mkdir(parents=True, exist_ok=True)
    for case, scan, labels in (("ct", pair.fixed, pair.fixed_labels), ("mr", pair.moving, pair.moving_labels)):
        if case == "ct":
            scan = sitk.Clamp(scan, scan.GetPixelID(), *pair.clips["fixed_clip"])
        sitk.WriteImage(scan, str(out / "imagesTr" / f"{case}_0000.nii.gz"))
        sitk.WriteImage(sitk.Cast(labels, sitk.sitkUInt8), str(out / "labelsTr" / f"{case}.nii.gz"))
    numbers = np.arange(1, len(abdomen_names(source)) + 1).tolist()
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, **dict(zip(abdomen_names(source), numbers, strict=True))},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (out / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_dataset(arguments.data, arguments.out)
