"""Validation of a raw dataset before planning.

It reports early what would make nnU-Net fail later, or learn from wrong data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tqdm import tqdm

from nnunet_anatomix.finetuning.description import require_labels, require_reader
from pretraining.common.child import hides_progress_bars
from pretraining.common.errors import InputError
from pretraining.common.processes import available_cores, imap_unordered
from pretraining.common.triple import triple
from pretraining.imaging.dataset_json import DATASET_FILE, read_dataset_json
from pretraining.imaging.grids import ROUNDED_HEADERS_VOX, Grid, corner_distance_vox, same_grid
from pretraining.imaging.integrity import check_file, require_volume
from pretraining.imaging.limits import SANE_SPACING_MM
from pretraining.imaging.orientation import is_sheared_alone, orientation_note, ras_affine
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.volume_header import VolumeHeader

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """Raw dataset whose files all exist."""

    name: str
    folder: Path
    description: Mapping[str, Any]
    """Content of ``dataset.json``."""
    cases: Mapping[str, Mapping[str, Any]]
    """``images`` and ``label`` files of each training case."""


def find_dataset(dataset: str) -> RawDataset:
    """Find a dataset in ``nnUNet_raw`` and check that its files exist, without reading them.

    Args:
        dataset: ID or name.

    Raises:
        InputError: If nnU-Net's folders, ``dataset.json``, labels, channels, reader or files are
            missing or do not fit.
    """
    for variable, root in (("nnUNet_raw", nnUNet_raw), ("nnUNet_preprocessed", nnUNet_preprocessed)):
        if not root.get():
            raise InputError(
                f"{variable} is not set; it names nnU-Net's folder (documentation/setting_up_paths.md of nnU-Net)"
            )
    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError):
        raise InputError(
            f"no single dataset '{dataset}' in {nnUNet_raw}; expected one folder Dataset{str(dataset).zfill(3)}_NAME"
        ) from None
    folder = Path(nnUNet_raw) / name
    dataset_json = read_dataset_json(folder / DATASET_FILE)
    channels, ending = len(dataset_json.channel_names), dataset_json.file_ending
    description = {"channel_names": dataset_json.content.get("modality"), **dataset_json.content}
    require_labels(name, description)
    require_reader(name, description)
    _refuse_files_of_macos(folder / "imagesTr", ending)
    cases = (
        get_filenames_of_train_images_and_targets(str(folder), description) if _has_images(folder, description) else {}
    )
    if not cases:
        raise InputError(f"{name} has no training images in {folder / 'imagesTr'}")
    if unlabelled := [case for case, files in cases.items() if not Path(files["label"]).is_file()]:
        raise InputError(
            f"{name}: {len(unlabelled)} training cases have no label, the first is '{unlabelled[0]}'; "
            "expected it in labelsTr"
        )
    for case, files in cases.items():
        if len(files["images"]) != channels or not all(Path(image).is_file() for image in files["images"]):
            found = [Path(image).name for image in files["images"] if Path(image).is_file()]
            raise InputError(
                f"{name}: dataset.json names {channels} channels, case '{case}' has {len(found)} ({found}); "
                f"expected {case}_0000{ending} to _{channels - 1:04d}{ending}"
            )
    return RawDataset(name=name, folder=folder, description=description, cases=cases)


def check_cases(dataset: RawDataset) -> None:
    """Read every training case and reject those that cannot be trained on.

    Args:
        dataset: Dataset from :func:`find_dataset`.

    Raises:
        InputError: If a case has damaged, unreadable or 2D files (see
            :mod:`pretraining.imaging.integrity`), files on different grids, NaN or infinite voxels,
            a constant channel, or label values that ``dataset.json`` does not name. The message
            names the case.

    Notes:
        A label that occurs in no training case only causes a warning: benchmarks name organs that a
        single patient may lack.
    """
    labels = LabelManager(dataset.description["labels"], dataset.description.get("regions_class_order"))
    known = {int(label) for label in labels.all_labels} | (
        {int(labels.ignore_label)} if labels.has_ignore_label else set()
    )
    jobs = [
        (case, files["images"], files["label"], dataset.description) for case, files in sorted(dataset.cases.items())
    ]
    processes = min(len(jobs), default_num_processes, available_cores())
    seen: set[int] = set()
    # Spawned processes take longer to start than a few scans take to read.
    for (case, *_), (found, notes) in tqdm(
        imap_unordered(_check_case, jobs, processes=processes if len(jobs) > 8 else 1),
        total=len(jobs),
        desc="checking scans",
        leave=False,
        disable=hides_progress_bars(),
    ):
        for note in notes:
            log.warning("%s: case '%s': %s", dataset.name, case, note)
        if unknown := sorted(found - known):
            raise InputError(
                f"{dataset.name}: labels of case '{case}' hold the values {unknown}, dataset.json names {sorted(known)}"
            )
        seen |= found
    if unseen := sorted(known - seen - {0}):
        names = {
            name: value
            for name, value in dataset.description["labels"].items()
            if name != "ignore" and _values(value) & set(unseen)
        }
        log.warning(
            "%s: no training case contains label %s %s; it cannot be learned", dataset.name, unseen, sorted(names)
        )


def _check_case(job: tuple[str, list[str], str, Mapping[str, Any]]) -> tuple[set[int], list[str]]:
    """Check one case; return its label values and notes for the user."""
    case, images, label, description = job
    headers = {Path(path): _check_header(case, Path(path)) for path in (*images, label)}
    reader = determine_reader_writer_from_dataset_json(dict(description), images[0], verbose=False)()
    try:
        scan, properties = reader.read_images(images)
        segmentation, label_properties = reader.read_seg(label)
    except Exception as error:  # ITK, nibabel and tifffile have no common exception class
        raise InputError(
            f"case '{case}': cannot read {[Path(image).name for image in images]} and {Path(label).name} together: "
            f"{_to_line(error)}"
        ) from None
    if 1 in scan.shape[1:]:
        raise InputError(f"case '{case}' is 2D: {Path(images[0]).name} has {scan.shape[1:]} voxels; the backbone is 3D")
    low, high = SANE_SPACING_MM
    if not all(low <= spacing <= high for spacing in properties["spacing"]):
        raise InputError(
            f"case '{case}': expected spacings from {low:g} to {high:g} mm, found {_to_floats(properties['spacing'])}; "
            "correct the header"
        )
    if scan.shape[1:] != segmentation.shape[1:]:
        raise InputError(
            f"case '{case}': image of {scan.shape[1:]} voxels, label of {segmentation.shape[1:]}; "
            "both must be on one grid"
        )
    image_grid, label_grid = (_to_grid(scan.shape[1:], found) for found in (properties, label_properties))
    if not same_grid(image_grid, label_grid, within_vox=ROUNDED_HEADERS_VOX):
        found = "; ".join(
            f"{name} of the image is {first}, of the label {second}"
            for name, first, second in zip(
                ("size", "spacing", "origin", "direction"), astuple(image_grid), astuple(label_grid), strict=True
            )
            if first != second
        )
        distance = corner_distance_vox(image_grid, label_grid)
        raise InputError(
            f"case '{case}': {found}; both must be on one grid, but their corners are {distance:.3g} voxels apart"
        )
    for image, channel in zip(images, scan, strict=True):
        low, high = float(channel.min()), float(channel.max())
        # NaN and infinity both show in the minimum or the maximum.
        if not np.isfinite([low, high]).all():
            raise InputError(
                f"case '{case}': {Path(image).name} has NaN or infinite voxels; replace them by the background's value"
            )
        if low == high:
            raise InputError(
                f"case '{case}': {Path(image).name} is constant ({low:g} everywhere); remove or replace it"
            )
    notes = _orientation_notes(headers, Path(images[0]), properties)
    values = np.unique(segmentation)
    if not np.array_equal(values, np.round(values)):
        fraction = values[values % 1 != 0][0]
        raise InputError(f"case '{case}': {Path(label).name} must hold whole numbers, found {fraction:g}")
    return {int(value) for value in values}, notes


def _check_header(case: str, path: Path) -> VolumeHeader | None:
    """Return the header of a file; raise InputError if the file is damaged or not a volume."""
    try:
        header = check_file(path)
        if header is not None:
            require_volume(header)
    except Rejected as reason:
        raise InputError(f"case '{case}': {path.name}: {reason}") from None
    return header


def _orientation_notes(
    headers: Mapping[Path, VolumeHeader | None], first: Path, properties: Mapping[str, Any]
) -> list[str]:
    """Return notes on which orientation nnU-Net's reader used, for headers that give two."""
    header = headers[first]
    if header is None or not header.is_nifti:
        return []
    if "sitk_stuff" in properties:
        grid = properties["sitk_stuff"]
        used = ras_affine(grid["direction"], grid["spacing"], grid["origin"])
    elif "nibabel_stuff" in properties:
        used = np.asarray(properties["nibabel_stuff"]["original_affine"])
    else:
        return []
    note = (
        "its axes are not at right angles (sheared), but are read as if they were"
        if is_sheared_alone(header)
        else orientation_note(header, used)
    )
    return [f"{first.name}: {note}"] if note else []


def _to_grid(shape: Sequence[int], properties: Mapping[str, Any]) -> Grid:
    """Convert the properties of nnU-Net's reader, (Z, Y, X), to a grid.

    Readers other than SimpleITK's give only shape and spacing; origin and direction are then 0 and
    the identity.
    """
    size, spacing = tuple(int(side) for side in reversed(shape)), _to_floats(reversed(properties["spacing"]))
    placement = properties.get("sitk_stuff", {"origin": (0, 0, 0), "direction": np.eye(3).ravel()})
    origin, direction = _to_floats(placement["origin"]), _to_floats(placement["direction"])
    return Grid(size=triple(size), spacing_mm=triple(spacing), origin_mm=triple(origin), direction=direction)


def _to_floats(numbers: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers)


def _values(label: Any) -> set[int]:
    return {int(value) for value in (label if isinstance(label, (list, tuple)) else [label])}


def _to_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[-200:]


def _refuse_files_of_macos(folder: Path, ending: str) -> None:
    """Refuse ``._NAME`` beside scans, which nnU-Net takes for scans."""
    if found := sorted(path.name for path in folder.glob(f"._*{ending}")):
        raise InputError(
            f"{folder}: {len(found)} files are not scans but macOS's notes on scans, the first is '{found[0]}'; "
            f"nnU-Net takes them for cases, so remove them: find {folder.parent} -name '._*' -delete"
        )


def _has_images(folder: Path, description: Mapping[str, Any]) -> bool:
    return "dataset" in description or (folder / "imagesTr").is_dir()
