"""Registration of one or many pairs of files; failed pairs do not stop the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.formats.reading import is_flirt
from nnunet_anatomix.registration.landmarks import read_landmarks
from nnunet_anatomix.registration.lists import pair_name, read_list
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.summary import REGISTRATION_FILE
from nnunet_anatomix.registration.verdict.batch_page import BATCH_PAGE, write_batch_page
from nnunet_anatomix.registration.writing import PAGE, WriteDicom, measure, write_registration
from pretraining.backbone.feature_network import FeatureWeights
from pretraining.backbone.inference import Clip
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_state, fingerprint
from pretraining.common.lock import hold_lock
from pretraining.imaging.limits import check_window
from pretraining.imaging.scans import read_image, validate_labels, validate_scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """Files of one pair; only the scans are required."""

    name: str
    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_landmarks: Path | None = None
    moving_landmarks: Path | None = None
    init: Path | None = None
    """Initial transform of this pair."""


def read_pairs(path: Path) -> list[PairFiles]:
    """Read a list of pairs.

    Args:
        path: CSV file with the columns of :class:`PairFiles`. Only ``fixed`` and ``moving`` are
            required; paths are relative to its folder.

    Returns:
        One entry per row.

    Raises:
        InputError: As in :func:`~nnunet_anatomix.registration.lists.read_list`.
    """
    optional = [one.name for one in fields(PairFiles) if one.name not in ("name", "fixed", "moving")]
    rows = read_list(path, "pairs", required=("fixed", "moving"), optional=optional, unnamed=pair_name)
    return [
        PairFiles(name=row.name, **{column: path.parent / cell for column, cell in row.cells.items()}) for row in rows
    ]


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """Settings that all pairs of a batch share."""

    config: RegistrationConfig
    weights: FeatureWeights | None
    fixed_clip: Clip | None = None
    moving_clip: Clip | None = None
    memory: int | None = None
    device: torch.device | str = "cpu"
    read_scan: Callable[[str | Path, str], sitk.Image] = read_image
    """Function of path and role that reads a scan."""
    dicom_writer: Callable[[PairFiles], WriteDicom] | None = None
    """Function that reads the DICOM headers of a pair and returns a function that writes its
    transform; None for no DICOM object.
    """

    def __post_init__(self) -> None:
        check_window(self.fixed_clip, "--fixed-clip")
        check_window(self.moving_clip, "--moving-clip")

    def fingerprint(self, pair: PairFiles) -> str:
        """Return a digest that changes whenever a pair must be registered again."""
        files = {
            name: file_state(file)
            for name, file in {"start": Path(self.config.init), **asdict(pair)}.items()
            if isinstance(file, Path) and file.exists()
        }
        sha256 = self.weights.sha256 if self.weights and self.config.descriptors.feature_weight else None
        dicom = ["dicom"] if self.dicom_writer else []
        return fingerprint([asdict(self.config), sha256, self.fixed_clip, self.moving_clip, files, *dicom])


def register_pair(pair: PairFiles, out: Path, settings: BatchSettings, *, progress: bool = True) -> dict:
    """Register one pair of files, and write the result into a folder.

    Args:
        pair: Files of the pair.
        out: Folder for the result.
        settings: Settings of the batch.
        progress: Show progress bars.

    Returns:
        The metrics, and ``verdict`` and ``reason``.

    Raises:
        InputError: If a file cannot be used; nothing is written then.
    """
    fingerprint = settings.fingerprint(pair)
    write_dicom = settings.dicom_writer(pair) if settings.dicom_writer else None
    fixed, moving = (
        validate_scan(settings.read_scan(path, role), role)
        for path, role in ((pair.fixed, "fixed"), (pair.moving, "moving"))
    )
    fixed_mask, moving_mask = (
        validate_labels(read_image(path, role), scan, role) if path else None
        for role, path, scan in (("fixed mask", pair.fixed_mask, fixed), ("moving mask", pair.moving_mask, moving))
    )
    stored_labels = read_image(pair.moving_labels, "moving labels") if pair.moving_labels else None
    fixed_labels, moving_labels = (
        None if image is None else validate_labels(image, scan, role)
        for role, image, scan in (
            ("fixed labels", read_image(pair.fixed_labels, "fixed labels") if pair.fixed_labels else None, fixed),
            ("moving labels", stored_labels, moving),
        )
    )
    fixed_points_mm, moving_points_mm = (
        read_landmarks(path) if path else None for path in (pair.fixed_landmarks, pair.moving_landmarks)
    )
    counts = [0 if points is None else len(points) for points in (fixed_points_mm, moving_points_mm)]
    if counts[0] != counts[1]:
        raise InputError(
            f"landmarks: expected as many in the fixed as in the moving scan, found {counts[0]} and {counts[1]}; "
            "list the same points in the same order for both"
        )
    config = settings.config if pair.init is None else replace(settings.config, init=str(pair.init))
    _require_stored_order(Path(config.init), pair)
    registration = register(
        fixed,
        moving,
        config=config,
        features=settings.weights,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        fixed_clip=settings.fixed_clip,
        moving_clip=settings.moving_clip,
        memory=settings.memory,
        device=settings.device,
        progress=progress,
    )
    metrics = measure(
        registration,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_points_mm=fixed_points_mm,
        moving_points_mm=moving_points_mm,
    )
    if one_sided := metrics.get("one_sided_labels"):
        log.info("labels of only one scan, excluded from Dice: %s", one_sided)
    files = {key: str(value) for key, value in asdict(pair).items() if value is not None}
    verdict = write_registration(
        out,
        registration,
        metrics,
        pair=pair.name,
        moving_labels=stored_labels,
        write_dicom=write_dicom,
        fingerprint=fingerprint,
        files=files,
    )
    log.log(logging.INFO if verdict.level == "PASS" else logging.WARNING, "%s: %s", verdict.level, verdict.reason)
    return {**metrics, "verdict": verdict.level, "reason": verdict.reason}


def _require_stored_order(init: Path, pair: PairFiles) -> None:
    """Refuse FSL's matrices, which count voxels in FSL's files, for scans in another format."""
    others = [path for path in (pair.fixed, pair.moving) if not path.name.lower().endswith((".nii", ".nii.gz"))]
    if others and is_flirt(init):
        raise InputError(
            f"initial transform: {init} is a matrix of FSL, which counts voxels as the NIfTI files store them that FSL "
            f"had; found {others[0]}, pass these NIfTI files"
        )


def register_pairs(
    pairs: Sequence[PairFiles],
    out: Path,
    settings: BatchSettings,
    *,
    progress: bool = True,
    run: Callable[..., dict] = register_pair,
) -> int:
    """Register many pairs, each into a folder of its name below ``out``.

    Args:
        pairs: Pairs with different names.
        out: Folder of the batch. Its ``failed.csv`` lists the pairs that failed, and why, and its
            ``registrations.html`` all pairs with their verdicts.
        settings: Settings of all pairs.
        progress: Show progress bars.
        run: Function that registers one pair.

    Returns:
        Number of pairs registered by this call; the others were already finished with the same
        files and settings.

    Raises:
        CommandFailed: If some pairs failed, after all others were registered.
        InUse: If another process writes into ``out``.
        Interrupted: If this process is asked to stop; the same call resumes with the current pair.
    """

    def remove_report(pair: PairFiles, why: str) -> None:
        # A result of earlier files must not count as a result of the present ones. The error to
        # ignore is a name that is too long for a file.
        with suppress(OSError):
            (out / pair.name / REGISTRATION_FILE).unlink()

    with hold_lock(out):
        outcome = run_batch(
            {pair.name: pair for pair in pairs},
            lambda pair: run(pair, out / pair.name, settings, progress=progress),
            noun="pair",
            is_done=lambda pair: _is_done(out / pair.name, settings, pair),
            failures=out,
            on_failure=remove_report,
        )
        counts = write_batch_page(out, PAGE)
    log.info("%s; see %s", ", ".join(f"{count} {level}" for level, count in counts.items()), out / BATCH_PAGE)
    outcome.require_all("pairs", see=out / FAILURES)
    return outcome.done


def _is_done(folder: Path, settings: BatchSettings, pair: PairFiles) -> bool:
    try:
        return json.loads((folder / REGISTRATION_FILE).read_text(encoding="utf-8"))[
            "fingerprint"
        ] == settings.fingerprint(pair)
    except (OSError, ValueError, KeyError, TypeError):
        return False
