"""Output of a registration: moved scan and labels, transforms for ITK, ANTs and Slicer, metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.ants_names import ANTS_NAMES, write_ants_names
from nnunet_anatomix.registration.metrics import folded_share, inverse_error_mm, sd_log_jacobian, tre_mm
from nnunet_anatomix.registration.pictures import draw_panels, panels
from nnunet_anatomix.registration.summary import REGISTRATION_FILE
from nnunet_anatomix.registration.transforms import chain, steps
from nnunet_anatomix.registration.verdict.judge import RegistrationVerdict, judge
from nnunet_anatomix.registration.verdict.page import write_pair_page
from nnunet_anatomix.registration.verdict.quality import measure_quality
from nnunet_anatomix.registration.warp import itk_transform
from nnunet_anatomix.scores.overlap import dice_by_label, hd95_mm_by_label, shared_labels
from pretraining.common.atomic import NotWritten, write_text
from pretraining.imaging.grids import resample_image
from pretraining.imaging.writing import write_image, write_transform

if TYPE_CHECKING:
    from nnunet_anatomix.registration.register import Registration

MOVED, MOVED_LABELS = "moved.nii.gz", "moved_labels.nii.gz"
FORWARD, INVERSE = "forward", "inverse"
"""Names of transforms without their endings."""
START, START_DEFORMATION = "start.tfm", "start.h5"
"""Start that is linear, and start that is not."""
PICTURE, PAGE = "overview.png", "registration.html"
DICOM = "registration.dcm"
WriteDicom = Callable[[Path, sitk.Transform], None]
"""Function of the file to write and the transform from fixed to moving points."""


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
        ``folded_share``, ``sd_log_jacobian``, ``inverse_error_mm`` (mean) and
        ``inverse_error_p95_mm`` where both scans are known; from labels ``dice``, ``dice_before``
        (after the start alone), ``hd95_mm`` and ``one_sided_labels``; from
        landmarks ``tre_mm`` and ``tre_before_mm``. Labels of only one scan are excluded.
    """
    grid, known = registration.grid, registration.known > 0
    metrics: dict[str, Any] = {
        "folded_share": folded_share(registration.displacement, known),
        "sd_log_jacobian": sd_log_jacobian(registration.displacement, known),
    }
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
        moved = _array(registration.apply_labels(moving_labels))
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
    write_dicom: WriteDicom | None = None,
    **about: Any,
) -> RegistrationVerdict:
    """Write all files of a registration, the JSON report last, so that it marks a complete result.

    Args:
        out: Folder. Files of an earlier registration stay until all new ones are on disk.
        registration: Result to write.
        metrics: Metrics from :func:`measure`.
        pair: Name of the pair.
        moving_labels: Label map of the moving scan, to be moved too.
        write_dicom: Function that writes the forward transform as DICOM.
        **about: More entries of the JSON report.

    Returns:
        The verdict on the registration, which page and report hold too.

    Notes:
        ``forward.h5`` and ``inverse.h5`` are complete, as composite transforms of ITK.
        ``forward.nii.gz`` and ``inverse.nii.gz`` are the displacement alone, in mm, on the grid of
        the registration, and ``start.tfm`` the start: a field moves nothing beyond its grid, where
        the start still holds. A start that is not linear is ``start.h5``; its inverse is in
        ``inverse.nii.gz``. A linear start and the fields also have the names of ANTs, see
        :mod:`~nnunet_anatomix.registration.ants_names`.
    """
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".registration-", dir=out) as staged:
        try:
            verdict = _write_files(
                Path(staged), registration, metrics, pair=pair, moving_labels=moving_labels, about=about
            )
            if write_dicom is not None:
                write_dicom(Path(staged) / DICOM, registration.forward)
        except NotWritten as error:
            raise NotWritten(str(error).replace(staged, str(out))) from None
        written = sorted(Path(staged).iterdir(), key=lambda path: path.name == REGISTRATION_FILE)
        (out / REGISTRATION_FILE).unlink(missing_ok=True)
        for stale in {START, START_DEFORMATION, DICOM, *ANTS_NAMES} - {path.name for path in written}:
            (out / stale).unlink(missing_ok=True)
        for path in written:
            path.replace(out / path.name)
    return verdict


def _write_files(
    out: Path,
    registration: Registration,
    metrics: Mapping[str, Any],
    *,
    pair: str,
    moving_labels: sitk.Image | None,
    about: Mapping[str, Any],
) -> RegistrationVerdict:
    write_image(out / MOVED, registration.moved)
    if moving_labels is not None:
        write_image(out / MOVED_LABELS, registration.apply_labels(moving_labels))
    start = registration.start.transform
    for name, transform, field in (
        (FORWARD, registration.forward, itk_transform(registration.displacement, registration.grid)),
        (INVERSE, registration.inverse, _inverse_field(registration)),
    ):
        write_transform(out / f"{name}.h5", chain(steps(transform)))
        write_image(out / f"{name}.nii.gz", sitk.Cast(field.GetDisplacementField(), sitk.sitkVectorFloat32))
    write_ants_names(out, start, f"{FORWARD}.nii.gz", f"{INVERSE}.nii.gz")
    if start.IsLinear():
        write_transform(out / START, start)
    else:
        write_transform(out / START_DEFORMATION, chain(steps(start)))
    before = resample_image(registration.moving, registration.fixed, registration.start.transform)
    views = panels(registration.fixed, before, registration.moved)
    draw_panels(out / PICTURE, views, title=pair)
    measures = {**metrics, **asdict(measure_quality(registration))}
    verdict = judge(measures)
    write_pair_page(out / PAGE, registration, measures, verdict, views, pair=pair, files=about.get("files") or {})
    document = {
        "pair": pair,
        "method": registration.settings["method"],
        "verdict": verdict.level,
        "reason": verdict.reason,
        "levels": verdict.levels,
        "metrics": measures,
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
    return verdict


def _inverse_field(registration: Registration) -> sitk.DisplacementFieldTransform:
    """Return the inverse displacement; a start that is not linear is inverted together with it."""
    if registration.start.transform.IsLinear():
        return itk_transform(registration.inverse_displacement, registration.grid)
    return sitk.DisplacementFieldTransform(registration.inverse)


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
