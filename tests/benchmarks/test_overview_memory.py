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
import sys
import skimage.segmentation, skimage.transform, matplotlib.backends.backend_agg
from pathlib import Path
from nnunet_anatomix.clinical.delivery.overview import render_overview
from nnunet_anatomix.clinical.delivery.scan_planes import open_planes
from nnunet_anatomix.clinical.delivery.structures import read_structures
from pretraining.imaging.scans import read_image
"""
_RENDER = """
folder = Path(sys.argv[1])
structures = read_structures(folder / "dataset.json")
scan, labels = open_planes(folder / sys.argv[2]), read_image(folder / "labels.nii", "labels")
render_overview(scan, labels, structures, [1.0] * len(structures.all), title="x", is_ct=True).savefig(folder / "a.png")
"""
_PEAK = "print(int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024)"
"""Peak of this process alone: ``getrusage`` begins with that of the process that started it."""


def peak_bytes(code: str, *arguments: object) -> int:
    """Peak of the resident memory of a new process."""
    run = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells the peak of a process")
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_an_overview_takes_less_than_300_mb(tmp_path, ending):
    """The label map counts, twice, as ITK reads NIfTI; the scan, of 157 MB, is streamed."""
    random, labels = np.random.default_rng(0), np.zeros(SIDES[::-1], np.uint8)
    scan = np.empty(SIDES[::-1], np.int16)
    for z, plane in enumerate(scan):
        plane[:] = random.integers(-1000, 1000, plane.shape)
        labels[z, 50:450, 60:460] = np.arange(400)[:, None] // 4 + 1
    names = {"background": 0, **{f"structure {n}": n for n in range(1, 101)}}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    for name, values in ((f"scan{ending}", scan), ("labels.nii", labels)):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / name), useCompression=ending != ".nii")
    above = peak_bytes(_IMPORTS + _RENDER + _PEAK, tmp_path, f"scan{ending}") - peak_bytes(_IMPORTS + _PEAK, tmp_path)
    log.warning("overview of %d x %d x %d voxels, %s: %.0f MB above the imports", *SIDES, ending, above / 1e6)
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert 78e6 < above < 300e6  # the label map itself is in memory
