"""Pairs of scans of which it is known whether they can be registered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.warp import warp
from pretraining.imaging.grids import image_tensor, tensor_image
from tests.benchmarks.known_warps import smooth_warp

Kind = Literal["good", "hard", "bad"]


@dataclass(frozen=True, kw_only=True)
class KnownPair:
    """One pair.

    Attributes:
        name: Name.
        kind: ``good`` for scans that a method can register, ``hard`` where it is open whether the
            result serves, ``bad`` for what no method can register, or what it must not.
        fixed, moving: Scans.
        init: Start, as the flag ``--init`` takes it.
        options: More arguments of :func:`nnunet_anatomix.registration.register.register`.
    """

    name: str
    kind: Kind
    fixed: sitk.Image
    moving: sitk.Image
    init: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)


def known_pairs(data: Path) -> Iterator[KnownPair]:
    """Yield all pairs.

    Args:
        data: Folder of the test data (``ANATOMIX_TEST_DATA``).
    """
    yield from _good_pairs(data)
    yield from _hard_pairs(data)
    yield from _bad_pairs(data)


def _brain(data: Path, name: str) -> sitk.Image:
    return sitk.ReadImage(str(data / "registration" / "mni_multimodal" / f"{name}.nii.gz"), sitk.sitkFloat32)


def _training_scan(data: Path, name: str) -> sitk.Image:
    (path,) = (data / "nnUNet_raw").glob(f"*/imagesTr/{name}.nii.gz")
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def _limb(data: Path, case: str, channel: int) -> sitk.Image:
    """Return a limb, CT (0) or MR (1), at 3 mm."""
    return _resampled(_training_scan(data, f"{case}_000{channel}"), 3.0)


def _abdomen(data: Path, name: str) -> sitk.Image:
    return sitk.ReadImage(str(data / "registration" / "abdomen_ct_mr" / f"{name}.nii.gz"), sitk.sitkFloat32)


def _spine(data: Path, name: str) -> sitk.Image:
    return sitk.ReadImage(str(data / "registration" / "spinal_cord" / f"{name}.nii.gz"), sitk.sitkFloat32)


def _good_pairs(data: Path) -> Iterator[KnownPair]:
    for fixed, moving, seeds in (("t1", "t2", (0, 1)), ("t1", "pd", (0,)), ("t2", "t1", (1,)), ("t1", "ct", (0,))):
        for seed in seeds:
            yield KnownPair(
                name=f"brain {fixed}-{moving}, warp {seed}",
                kind="good",
                fixed=_brain(data, fixed),
                moving=_bent(_brain(data, moving), seed),
            )
    yield KnownPair(name="brain t1-t2", kind="good", fixed=_brain(data, "t1"), moving=_brain(data, "t2"))
    yield KnownPair(
        name="brain t1-t1 of another", kind="good", fixed=_brain(data, "t1"), moving=_brain(data, "colin_t1")
    )
    yield KnownPair(name="brain t1-epi", kind="good", fixed=_brain(data, "t1"), moving=_brain(data, "epi"))
    cases = ("048", "233", "340")
    for fixed in cases:
        for moving in cases:
            if fixed != moving:
                yield KnownPair(
                    name=f"hippocampus {fixed}-{moving}",
                    kind="good",
                    fixed=_training_scan(data, f"hippocampus_{fixed}_0000"),
                    moving=_training_scan(data, f"hippocampus_{moving}_0000"),
                )
    week22, week24, week26 = (
        _resampled(_training_scan(data, f"fetal_{name}_0000"), 2.0)
        for name in ("GA22_notoperated", "GA24_notoperated", "GA26_operated")
    )
    yield KnownPair(name="fetal brain 24-22", kind="good", fixed=week24, moving=week22)
    yield KnownPair(name="fetal brain 24-26", kind="good", fixed=week24, moving=week26)
    for case in ("STS_035", "STS_043", "STS_006"):
        yield KnownPair(
            name=f"limb {case} mr-ct",
            kind="good",
            fixed=_limb(data, case, 1),
            moving=_limb(data, case, 0),
            options={"moving_clip": (-450.0, 450.0)},
        )
    yield KnownPair(name="cord t1-t2", kind="good", fixed=_spine(data, "t1"), moving=_spine(data, "t2"))
    yield KnownPair(
        name="brain t1-t2, turned by 25 degrees",
        kind="good",
        fixed=_brain(data, "t1"),
        moving=_turned(_brain(data, "t2"), 25.0),
    )
    yield KnownPair(
        name="brain t1-t2, 300 mm away", kind="good", fixed=_brain(data, "t1"), moving=_moved(_brain(data, "t2"), 300.0)
    )


def _hard_pairs(data: Path) -> Iterator[KnownPair]:
    yield KnownPair(
        name="abdomen ct-mr of two people",
        kind="hard",
        fixed=_abdomen(data, "ct"),
        moving=_abdomen(data, "mr"),
        options={"fixed_clip": (-450.0, 450.0)},
    )
    yield KnownPair(name="brain t1-pet", kind="hard", fixed=_brain(data, "t1"), moving=_brain(data, "pet"))
    yield KnownPair(name="brain t1-spect", kind="hard", fixed=_brain(data, "t1"), moving=_brain(data, "spect"))
    yield KnownPair(
        name="brain t1-t2, lower half of t2 black",
        kind="hard",
        fixed=_brain(data, "t1"),
        moving=_blackened(_brain(data, "t2"), axis=2, share=0.5),
    )
    yield KnownPair(
        name="brain t1-t2, a quarter of t2 cut off",
        kind="hard",
        fixed=_brain(data, "t1"),
        moving=_brain(data, "t2")[:, :, 23:],
    )
    yield KnownPair(
        name="brain t1-t2, a third of t2 left",
        kind="hard",
        fixed=_brain(data, "t1"),
        moving=_brain(data, "t2")[:, :, 60:],
    )
    yield KnownPair(
        name="brain t1-t2, noisy", kind="hard", fixed=_brain(data, "t1"), moving=_noisy(_brain(data, "t2"), 1.0)
    )


def _bad_pairs(data: Path) -> Iterator[KnownPair]:
    t1, t2 = _brain(data, "t1"), _brain(data, "t2")
    limb_mr, limb_ct = _limb(data, "STS_035", 1), _limb(data, "STS_043", 0)
    ct = {"moving_clip": (-450.0, 450.0)}
    yield KnownPair(name="brain t1, limb mr", kind="bad", fixed=t1, moving=limb_mr)
    yield KnownPair(name="brain t1, limb ct", kind="bad", fixed=t1, moving=limb_ct, options=ct)
    yield KnownPair(name="limb mr, brain t2", kind="bad", fixed=limb_mr, moving=t2)
    yield KnownPair(name="brain t1, abdomen mr", kind="bad", fixed=t1, moving=_abdomen(data, "mr"))
    yield KnownPair(name="brain t1, abdomen ct", kind="bad", fixed=t1, moving=_abdomen(data, "ct_full"), options=ct)
    yield KnownPair(name="abdomen mr, limb ct", kind="bad", fixed=_abdomen(data, "mr"), moving=limb_ct, options=ct)
    yield KnownPair(name="brain t1, cord t2", kind="bad", fixed=t1, moving=_spine(data, "t2"))
    hippocampus = _training_scan(data, "hippocampus_048_0000")
    yield KnownPair(name="hippocampus, cord t1", kind="bad", fixed=hippocampus, moving=_spine(data, "t1"))
    yield KnownPair(name="limbs of two people", kind="bad", fixed=limb_mr, moving=limb_ct, options=ct)
    for axis, name in ((0, "left-right"), (1, "front-back"), (2, "upside down")):
        yield KnownPair(name=f"brain t1-t2, flipped {name}", kind="bad", fixed=t1, moving=_flipped(t2, axis))
    yield KnownPair(
        name="abdomen ct-ct, flipped left-right",
        kind="bad",
        fixed=_abdomen(data, "ct"),
        moving=_flipped(_abdomen(data, "ct"), 0),
    )
    yield KnownPair(name="limb mr-mr, flipped left-right", kind="bad", fixed=limb_mr, moving=_flipped(limb_mr, 0))
    yield KnownPair(
        name="hippocampus, flipped left-right",
        kind="bad",
        fixed=hippocampus,
        moving=_flipped(_training_scan(data, "hippocampus_233_0000"), 0),
    )
    yield KnownPair(name="brain t1, noise", kind="bad", fixed=t1, moving=_noise(t2, seed=0))
    yield KnownPair(
        name="brain t1, smooth noise", kind="bad", fixed=t1, moving=sitk.DiscreteGaussian(_noise(t2, 1), 16.0)
    )
    yield KnownPair(name="hippocampus, noise", kind="bad", fixed=hippocampus, moving=_noise(hippocampus, seed=2))
    yield KnownPair(
        name="brain t1-t2, 40 mm away, init none", kind="bad", fixed=t1, moving=_moved(t2, 40.0), init="none"
    )
    yield KnownPair(
        name="brain t1-t2, overlap 10 %, init none", kind="bad", fixed=t1, moving=_moved(t2, 164.0), init="none"
    )
    yield KnownPair(
        name="brain t1-t2, turned by 90 degrees, init none", kind="bad", fixed=t1, moving=_turned(t2, 90.0), init="none"
    )
    yield KnownPair(
        name="limb mr-mr, ends without overlap", kind="bad", fixed=limb_mr[:, :, :20], moving=limb_mr[:, :, -20:]
    )


def _resampled(scan: sitk.Image, spacing_mm: float) -> sitk.Image:
    size = [max(1, round(n * s / spacing_mm)) for n, s in zip(scan.GetSize(), scan.GetSpacing(), strict=True)]
    smooth = sitk.SmoothingRecursiveGaussian(scan, [max(0.01, spacing_mm / 2 - s / 2) for s in scan.GetSpacing()])
    return sitk.Resample(
        smooth, size, sitk.Transform(), sitk.sitkLinear, scan.GetOrigin(), [spacing_mm] * 3, scan.GetDirection()
    )


def _bent(scan: sitk.Image, seed: int) -> sitk.Image:
    return tensor_image(warp(image_tensor(scan)[None], smooth_warp(scan, seed), beyond="border")[0], scan)


def _moved(scan: sitk.Image, along_x_mm: float) -> sitk.Image:
    moved = sitk.Image(scan)
    x, y, z = scan.GetOrigin()
    moved.SetOrigin((x + along_x_mm, y, z))
    return moved


def _turned(scan: sitk.Image, degrees: float) -> sitk.Image:
    """Turn the content about the scan's centre, which the header does not tell."""
    centre = scan.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in scan.GetSize()])
    turn = sitk.Euler3DTransform(centre, 0.0, 0.0, float(np.deg2rad(degrees)))
    return sitk.Resample(scan, scan, turn, sitk.sitkLinear, 0.0)


def _flipped(scan: sitk.Image, axis: int) -> sitk.Image:
    """Flip the content, which the header does not tell."""
    flipped = sitk.GetImageFromArray(np.ascontiguousarray(np.flip(sitk.GetArrayFromImage(scan), 2 - axis)))
    flipped.CopyInformation(scan)
    return flipped


def _blackened(scan: sitk.Image, axis: int, share: float) -> sitk.Image:
    values = sitk.GetArrayFromImage(scan)
    part = [slice(None)] * 3
    part[2 - axis] = slice(0, round(values.shape[2 - axis] * share))
    values[tuple(part)] = values.min()
    blackened = sitk.GetImageFromArray(values)
    blackened.CopyInformation(scan)
    return blackened


def _noise(like: sitk.Image, seed: int) -> sitk.Image:
    shape = sitk.GetArrayViewFromImage(like).shape
    noise = sitk.GetImageFromArray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    noise.CopyInformation(like)
    return noise


def _noisy(scan: sitk.Image, share: float) -> sitk.Image:
    """Add noise whose standard deviation is a share of the scan's."""
    std = float(sitk.GetArrayViewFromImage(scan).std())
    return scan + sitk.Cast(_noise(scan, 3) * (share * std), sitk.sitkFloat32)
