"""What a registration leaves on disk: moved scan and labels, transforms that ITK, ANTs and Slicer read, numbers, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.metrics import folded_share, inverse_error_mm, tre_mm
from nnunet_anatomix.registration.pictures import draw_registration
from nnunet_anatomix.registration.register import Registration
from nnunet_anatomix.registration.summary import REGISTRATION_FILE
from nnunet_anatomix.scores.overlap import dice_by_label, hd95_mm_by_label, shared_labels
from pretraining.common.atomic import NotWritten, write_text
from pretraining.imaging.grids import LARGEST_FIELD, near_isotropic_grid, resample_image
from pretraining.imaging.writing import write_image, write_transform

MOVED, MOVED_LABELS = "moved.nii.gz", "moved_labels.nii.gz"
FORWARD, INVERSE = "forward.nii.gz", "inverse.nii.gz"
PICTURE = "overview.png"


def measure(
    registration: Registration,
    *,
    fixed_labels: sitk.Image | None = None,
    moving_labels: sitk.Image | None = None,
    fixed_points_mm: np.ndarray | None = None,
    moving_points_mm: np.ndarray | None = None,
) -> dict[str, Any]:
    """Metrics of a registration, by whatever there is to measure with.

    Args:
        fixed_labels, moving_labels: On the grids of their scans.
        fixed_points_mm, moving_points_mm: (N, 3) landmarks, LPS.

    Returns:
        ``folded_share`` and ``inverse_error_mm`` where both scans are known, and by labels
        ``dice``, ``dice_before`` (after the start alone), ``hd95_mm`` and ``one_sided_labels``; by
        landmarks ``tre_mm`` and ``tre_before_mm``. Labels that only one scan has take no part.
    """
    grid, known = registration.grid, registration.known > 0
    metrics: dict[str, Any] = {"folded_share": folded_share(registration.displacement, known)}
    mean, most = inverse_error_mm(
        registration.displacement, registration.inverse_displacement, grid.GetSpacing(), known
    )
    metrics |= {"inverse_error_mm": mean, "inverse_error_p95_mm": most}
    if fixed_labels is not None and moving_labels is not None:
        ours, theirs = _array(fixed_labels), _array(moving_labels)
        shared = shared_labels(ours, theirs)
        metrics["one_sided_labels"] = sorted(
            int(label) for label in {*np.unique(ours), *np.unique(theirs)} - {0, *shared}
        )
        moved = _array(registration.moved_labels(moving_labels))
        before = _array(resample_image(moving_labels, registration.fixed, registration.start.transform, nearest=True))
        spacing = registration.fixed.GetSpacing()
        for name, found in (
            ("dice", dice_by_label(ours, moved)),
            ("dice_before", dice_by_label(ours, before)),
            ("hd95_mm", hd95_mm_by_label(ours, moved, spacing)),
        ):
            metrics[name] = {str(label): _number(found.get(label, 0.0)) for label in shared}
    if fixed_points_mm is not None and moving_points_mm is not None:
        for name, transform in (("tre_mm", registration.forward), ("tre_before_mm", registration.start.transform)):
            metrics[name] = tre_mm(fixed_points_mm, moving_points_mm, transform).round(3).tolist()
    return metrics


def write_registration(
    out: Path,
    registration: Registration,
    metrics: Mapping[str, Any],
    *,
    pair: str,
    moving_labels: sitk.Image | None = None,
    **about: Any,
) -> None:
    """Write everything into ``out``: all files of a registration or none, the JSON last: where it is, all is.

    Args:
        out: Folder; what an earlier registration left in it stays until all of this one is complete
            on disk.
        registration: What was found.
        metrics: From :func:`measure`.
        pair: Its name.
        moving_labels: To be moved along.
        **about: What else the JSON shall say.

    Notes:
        ``forward.nii.gz`` and ``inverse.nii.gz`` are displacement fields in mm that hold the start
        too. ``forward.h5`` and ``inverse.h5`` are the same as ITK composites of their parts, where
        there is a start besides the headers.
    """
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".registration-", dir=out) as staged:
        try:
            _write_files(Path(staged), registration, metrics, pair, moving_labels, about)
        except NotWritten as error:
            raise NotWritten(str(error).replace(staged, str(out))) from None
        written = sorted(Path(staged).iterdir(), key=lambda path: path.name == REGISTRATION_FILE)
        (out / REGISTRATION_FILE).unlink(missing_ok=True)
        for path in written:
            path.replace(out / path.name)


def _write_files(
    out: Path,
    registration: Registration,
    metrics: Mapping[str, Any],
    pair: str,
    moving_labels: sitk.Image | None,
    about: Mapping[str, Any],
) -> None:
    write_image(out / MOVED, registration.moved)
    if moving_labels is not None:
        write_image(out / MOVED_LABELS, registration.moved_labels(moving_labels))
    moving = registration.moving
    too_large = moving.GetNumberOfPixels() > LARGEST_FIELD
    moving_grid = (
        near_isotropic_grid(moving, spacing_mm=min(moving.GetSpacing()), at_most_voxels=LARGEST_FIELD)
        if too_large
        else moving
    )
    for name, transform, grid in (
        (FORWARD, registration.forward, registration.grid),
        (INVERSE, registration.inverse, moving_grid),
    ):
        write_image(out / name, _field(transform, grid))
        if registration.start.name != "header" or not _is_identity(registration.start.transform):
            write_transform(out / name.replace(".nii.gz", ".h5"), transform)
    if registration.start.transform.IsLinear():
        write_transform(out / "start.tfm", registration.start.transform)
    before = resample_image(registration.moving, registration.fixed, registration.start.transform)
    draw_registration(out / PICTURE, registration.fixed, before, registration.moved, title=pair)
    document = {
        "pair": pair,
        "method": registration.settings["method"],
        "metrics": metrics,
        "seconds": round(sum(registration.seconds.values()), 2),
        "seconds_by_stage": registration.seconds,
        "start": {
            "name": registration.start.name,
            "agreement": registration.start.agreement,
            "rivals": registration.start.rivals,
        },
        "settings": {name: _fields(value) for name, value in registration.settings.items()},
        **about,
    }
    write_text(out / REGISTRATION_FILE, json.dumps(_plain(document), indent=1) + "\n")


def _field(transform: sitk.Transform, grid: sitk.Image) -> sitk.Image:
    return sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat32, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )


def _is_identity(transform: sitk.Transform) -> bool:
    points = [(0.0, 0.0, 0.0), (100.0, 0.0, 0.0), (0.0, 100.0, 0.0), (0.0, 0.0, 100.0)]
    return all(np.allclose(transform.TransformPoint(point), point, atol=1e-9) for point in points)


def _array(labels: sitk.Image) -> np.ndarray:
    """(X, Y, Z)."""
    return sitk.GetArrayFromImage(labels).transpose(2, 1, 0)


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else round(float(value), 5)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return _number(value)
    return value


def _fields(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
