"""Output of a registration: moved scan and labels, transforms for ITK, ANTs and Slicer, metrics."""

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
    """Compute the metrics of a registration for which there is a reference.

    Args:
        registration: Result to measure.
        fixed_labels: Label map on the grid of the fixed scan.
        moving_labels: Label map on the grid of the moving scan.
        fixed_points_mm: (N, 3) landmarks of the fixed scan, LPS.
        moving_points_mm: (N, 3) the same landmarks in the moving scan, LPS.

    Returns:
        ``folded_share``, ``inverse_error_mm`` (mean) and ``inverse_error_p95_mm`` where both scans
        are known; from labels ``dice``, ``dice_before`` (after the start alone), ``hd95_mm`` and
        ``one_sided_labels``; from landmarks ``tre_mm`` and ``tre_before_mm``. Labels of only one
        scan are excluded.
    """
    grid, known = registration.grid, registration.known > 0
    metrics: dict[str, Any] = {"folded_share": folded_share(registration.displacement, known)}
    mean, percentile95 = inverse_error_mm(
        registration.displacement, registration.inverse_displacement, grid.GetSpacing(), known
    )
    metrics |= {"inverse_error_mm": mean, "inverse_error_p95_mm": percentile95}
    if fixed_labels is not None and moving_labels is not None:
        fixed, moving = _array(fixed_labels), _array(moving_labels)
        shared = shared_labels(fixed, moving)
        metrics["one_sided_labels"] = sorted(
            int(label) for label in {*np.unique(fixed), *np.unique(moving)} - {0, *shared}
        )
        moved = _array(registration.moved_labels(moving_labels))
        before = _array(resample_image(moving_labels, registration.fixed, registration.start.transform, nearest=True))
        spacing = registration.fixed.GetSpacing()
        for name, values in (
            ("dice", dice_by_label(fixed, moved)),
            ("dice_before", dice_by_label(fixed, before)),
            ("hd95_mm", hd95_mm_by_label(fixed, moved, spacing)),
        ):
            metrics[name] = {str(label): _json_number(values.get(label, 0.0)) for label in shared}
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
    """Write all files of a registration, the JSON report last, so that it marks a complete result.

    Args:
        out: Folder. Files of an earlier registration stay until all new ones are on disk.
        registration: Result to write.
        metrics: Metrics from :func:`measure`.
        pair: Name of the pair.
        moving_labels: Label map of the moving scan, to be moved too.
        **about: More entries of the JSON report.

    Notes:
        ``forward.nii.gz`` and ``inverse.nii.gz`` are displacement fields in mm, the start
        included. ``forward.h5`` and ``inverse.h5`` are the same as ITK composite transforms,
        written if the start is not the identity.
    """
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".registration-", dir=out) as staged:
        try:
            _write_files(Path(staged), registration, metrics, pair=pair, moving_labels=moving_labels, about=about)
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
    *,
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
        write_image(out / name, _displacement_field(transform, grid))
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
        "settings": {name: _as_dict(value) for name, value in registration.settings.items()},
        **about,
    }
    write_text(out / REGISTRATION_FILE, json.dumps(_to_json(document), indent=1) + "\n")


def _displacement_field(transform: sitk.Transform, grid: sitk.Image) -> sitk.Image:
    return sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat32, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )


def _is_identity(transform: sitk.Transform) -> bool:
    points = [(0.0, 0.0, 0.0), (100.0, 0.0, 0.0), (0.0, 100.0, 0.0), (0.0, 0.0, 100.0)]
    return all(np.allclose(transform.TransformPoint(point), point, atol=1e-9) for point in points)


def _array(labels: sitk.Image) -> np.ndarray:
    """Return labels as an (X, Y, Z) array."""
    return sitk.GetArrayFromImage(labels).transpose(2, 1, 0)


def _json_number(value: float) -> float | None:
    """Round a number; return None for NaN, which JSON does not have."""
    return None if np.isnan(value) else round(float(value), 5)


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float):
        return _json_number(value)
    return value


def _as_dict(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
