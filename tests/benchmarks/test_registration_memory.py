"""Registration keeps to its memory target.

Measured is the peak of a process, above that of one that imports torch alone.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

log = logging.getLogger(__name__)

_PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
_REGISTER = """
import sys
import SimpleITK as sitk
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.register import RegistrationConfig, register
from pretraining.common.byte_sizes import parse_bytes

def enlarged(path, side):
    scan = sitk.ReadImage(path, sitk.sitkFloat32)
    grid = sitk.Image([side] * 3, sitk.sitkUInt8)
    grid.SetOrigin(scan.GetOrigin())
    grid.SetDirection(scan.GetDirection())
    grid.SetSpacing([step * (length - 1) / (side - 1) for step, length in zip(scan.GetSpacing(), scan.GetSize())])
    return sitk.Resample(scan, grid)

fixed, moving = (enlarged(path, int(sys.argv[1])) for path in sys.argv[3:])
config = RegistrationConfig(init="none", descriptors=DescriptorConfig(overlap=0.25, bf16=True))
register(fixed, moving, config=config, memory=parse_bytes(sys.argv[2]))
"""


def peak_bytes(code: str, *arguments: str | Path) -> int:
    """Peak of the resident memory of a new process."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{_PEAK}", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return int(run.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("side, memory, most", [(256, "2G", 2 * 2**30), (128, "1G", 2**30)])
def test_a_memory_target_is_kept(data_root, side, memory, most):
    folder = data_root / "registration" / "mni_multimodal"
    above = peak_bytes(_REGISTER, side, memory, folder / "t1.nii.gz", folder / "t2.nii.gz") - peak_bytes("import torch")
    log.warning("a pair of %d³ voxels with --memory %s: peak %.2f GiB above import torch", side, memory, above / 2**30)
    assert above < most
