"""Memory for the overview picture of a large prediction, above that of the imports."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

log = logging.getLogger(__name__)

SIDES = (512, 512, 300)
"""78 million voxels: a label map of 78 MB."""
_IMPORTS = """
import resource, sys
import skimage.segmentation, skimage.transform, matplotlib.backends.backend_agg
from pathlib import Path
from nnunet_anatomix.clinical.delivery.overview import render_overview
from nnunet_anatomix.clinical.delivery.structures import read_structures
from pretraining.imaging.scans import read_image
"""
_RENDER = """
folder = Path(sys.argv[1])
structures = read_structures(folder / "dataset.json")
images = [read_image(folder / name, "scan") for name in ("scan.nii", "labels.nii")]
render_overview(*images, structures, [1.0] * len(structures.all), title="x", is_ct=True).savefig(folder / "a.png")
"""
_PEAK = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


def peak_bytes(code: str, folder: Path) -> int:
    """Peak of the resident memory of a new process."""
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


@pytest.mark.slow
def test_an_overview_takes_less_than_300_mb(tmp_path):
    """Both images, of 157 and 78 MB, count."""
    random, labels = np.random.default_rng(0), np.zeros(SIDES[::-1], np.uint8)
    scan = np.empty(SIDES[::-1], np.int16)
    for z, plane in enumerate(scan):
        plane[:] = random.integers(-1000, 1000, plane.shape)
        labels[z, 50:450, 60:460] = np.arange(400)[:, None] // 4 + 1
    names = {"background": 0, **{f"structure {n}": n for n in range(1, 101)}}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    for name, values in (("scan.nii", scan), ("labels.nii", labels)):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / name))
    above = peak_bytes(_IMPORTS + _RENDER + _PEAK, tmp_path) - peak_bytes(_IMPORTS + _PEAK, tmp_path)
    log.warning("overview of %d x %d x %d voxels: %.0f MB above the imports", *SIDES, above / 1e6)
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert above < 300e6
