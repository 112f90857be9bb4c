"""Small data in place of the paper's: pairs of cropped, downsampled brains, banks of shapes."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from nnunet_anatomix.datasets.registration_pairs import PairRow, PairSettings, write_pairs

_BOX = ((8, 10, 10), (72, 88, 72))
"""First voxel and sides of the crop of a brain."""
_COARSER = 3


def brain_pairs(folder: Path, brain: Path, tests: int = 2) -> Path:
    """Write pairs of T1 and T2 of one person, the T2 shifted differently; one pair for tuning."""
    rows = []
    for number in range(1 + tests):
        shift = sitk.TranslationTransform(3, (2.0 + number, -3.0, 1.5))
        for role, file, transform in (("fixed", "t1", None), ("moving", "t2", shift)):
            for kind, name in (("images", file), ("labels", "labels_neuromorphometrics")):
                image = _coarse(sitk.ReadImage(str(brain / f"{name}.nii.gz")), transform, labels=kind == "labels")
                (folder / kind).mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(image, str(folder / kind / f"{number}_{role}.nii.gz"))
        files = {role: f"images/{number}_{role}.nii.gz" for role in ("fixed", "moving")}
        labels = {f"{role}_labels": f"labels/{number}_{role}.nii.gz" for role in ("fixed", "moving")}
        rows.append(PairRow(name=f"pair{number}", **files, **labels))
    write_pairs(folder, PairSettings(name="Brains"), rows[:1], rows[1:])
    return folder


def _coarse(image: sitk.Image, transform: sitk.Transform | None, *, labels: bool) -> sitk.Image:
    image = sitk.RegionOfInterest(image, _BOX[1], _BOX[0])
    grid = sitk.Image([side // _COARSER for side in _BOX[1]], sitk.sitkUInt8)
    grid.SetSpacing([spacing * _COARSER for spacing in image.GetSpacing()])
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([(_COARSER - 1) / 2] * 3))
    grid.SetDirection(image.GetDirection())
    how = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    return sitk.Resample(
        sitk.Cast(image, sitk.sitkInt32 if labels else sitk.sitkFloat32), grid, transform or sitk.Transform(), how
    )
