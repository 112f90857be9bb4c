"""Groupwise affine alignment of scans in rounds, which can be resumed (App. B.4.4)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.atlas.template import (
    AtlasScan,
    Poses,
    Template,
    affine_transform,
    average_unbiased,
    digest,
    file_stamp,
    grid_geometry,
    homogeneous,
)
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.start.initial import Start, best_start
from pretraining.backbone.feature_network import FeatureNetwork, FeatureWeights
from pretraining.backbone.inference import Clip
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, Outcome, run_batch
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.lock import hold_lock
from pretraining.imaging.grids import LARGEST_FIELD, near_isotropic_grid, resample_image
from pretraining.imaging.limits import check_spacing
from pretraining.imaging.scans import read_image, validate_labels
from pretraining.imaging.writing import write_image, write_transform

log = logging.getLogger(__name__)

ATLAS, STATE = "atlas.nii.gz", "alignment.json"
_EIGENVALUE_TOLERANCE = 1e-6
"""Bound below which an eigenvalue is not positive, or its imaginary part is 0."""


def align_scans(
    scans: Sequence[AtlasScan],
    out: Path,
    *,
    atlas: Path | None = None,
    atlas_clip: Clip | None = None,
    rounds: int = 2,
    spacing_mm: float | None = None,
    config: DescriptorConfig | None = None,
    weights: FeatureWeights | None = None,
    device: torch.device | str = "cpu",
) -> int:
    """Align scans to one space by affine transforms, and write the results.

    Writes for each scan NAME ``NAME_affine.tfm`` (transform from points of the atlas to points of
    the scan), ``NAME_aligned.nii.gz`` (the scan in its own intensities on the grid of the atlas)
    and, with labels, ``NAME_labels.nii.gz``; also ``atlas.nii.gz`` and ``alignment.json``, with the
    agreement of each scan in each round.

    Args:
        scans: Scans with different names.
        out: Folder for the results.
        atlas: Scan to align all others to, once; it keeps its grid. Default: an atlas computed from
            the scans.
        atlas_clip: Intensity range of the given atlas.
        rounds: Number of rounds of alignment and averaging, at least 1.
        spacing_mm: Spacing of the atlas' grid. Default: that of the first scan (see
            :func:`pretraining.imaging.grids.near_isotropic_grid`).
        config: Descriptors to compare. Default: MIND-SSC, with features if there are weights.
        weights: Weights of the feature network. Default: none.
        device: Device of the network.

    Returns:
        Number of alignments computed by this call; the others were already finished with the same
        files and settings.

    Raises:
        InputError: If the atlas, or without one every scan, cannot be read.
        CommandFailed: If scans failed, after all others were aligned, or at once if none is left to
            compute an atlas from. ``failed.csv`` lists them.
        InUse: If another process writes into ``out``.
        Interrupted: If this process is asked to stop; the same call resumes with the current scan.

    Notes:
        As in the paper, the first readable scan is the first template; the choice hardly matters,
        because its pose is divided out. Only scans of its group make the atlas; those of other
        groups are aligned to it afterwards, as the paper's MRI to its CT atlas. Unlike the paper,
        descriptors of the scans are compared, rather than labels across modalities and mutual
        information within one; the template is the mean, not the median, which would hold all scans
        at once; and the mean pose is affine, not rigid.
    """
    if rounds < 1:
        raise InputError(f"--rounds: expected at least 1, found {rounds}")
    check_spacing(spacing_mm)
    config = config or (DescriptorConfig() if weights else DescriptorConfig(feature_weight=0.0))
    given = AtlasScan(name="atlas", scan=atlas, clip=atlas_clip) if atlas else None
    with hold_lock(out):
        aligner = _Aligner(
            out=out, config=config, weights=weights if config.feature_weight else None, device=torch.device(device)
        )
        if given:
            template = Template([given], {given.name: np.eye(4)}, given.read_scaled())
            poses = aligner.align("given atlas", scans, template)
        else:
            first, grid = _first_readable(scans, spacing_mm)
            template = Template([first], {first.name: np.eye(4)}, grid)
            poses = template.poses
            members = [scan for scan in scans if scan.group == first.group]
            others = [scan for scan in scans if scan.group != first.group]
            for number in range(1, rounds + 1):
                poses = aligner.align(f"round {number}", members, template, poses)
                if not poses:
                    reasons = _format_failures(aligner.outcome.failed)
                    raise CommandFailed(f"round {number}: all scans that make the atlas failed: {reasons}")
                template = average_unbiased([scan for scan in members if scan.name in poses], poses, template.grid)
                poses = template.poses
            if others:
                poses = poses | aligner.align("other groups", others, template)
        aligner.write(scans, poses, template, given)
        aligner.outcome.total = len(scans)
    aligner.outcome.require_all("scans", see=out / FAILURES)
    return aligner.outcome.done


@dataclass(kw_only=True)
class _Aligner:
    """Alignment of one scan after the other.

    ``alignment.json`` records the inputs of each pose and of each file.
    """

    out: Path
    config: DescriptorConfig
    weights: FeatureWeights | None
    device: torch.device
    outcome: Outcome = field(default_factory=lambda: Outcome(total=0))
    """Outcome of all stages; ``done`` counts alignments."""

    def __post_init__(self) -> None:
        self._settings = [asdict(self.config), self.weights.sha256 if self.weights else None]
        try:
            self._before = dict(json.loads((self.out / STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._before = {}
        self._state: dict[str, Any] = {"written": dict(self._before.get("written", {}))}

    @cached_property
    def _net(self) -> FeatureNetwork | None:
        return self.weights.network().to(self.device) if self.weights else None

    def align(self, stage: str, scans: Sequence[AtlasScan], template: Template, initial: Poses | None = None) -> Poses:
        """Align scans to a template, and return the poses of those that succeeded."""
        before, entries = self._before.get(stage, {}), self._state.setdefault(stage, {})

        def inputs_of(scan: AtlasScan) -> str:
            return digest(template.key, scan.stamp(), self._settings)

        def is_done(scan: AtlasScan) -> bool:
            known = before.get(scan.name, {})
            if known.get("inputs") != inputs_of(scan):
                return False
            entries[scan.name] = known
            return True

        def work(scan: AtlasScan) -> None:
            inputs = inputs_of(scan)
            start = self._find_start(scan, template, (initial or {}).get(scan.name))
            pose = homogeneous(start.transform).tolist()
            entries[scan.name] = {"inputs": inputs, "agreement": round(start.agreement, 4), "pose": pose}
            self._save()

        self.outcome.done += self._run_stage(stage, scans, work, is_done).done
        return {name: np.array(entry["pose"]) for name, entry in entries.items()}

    def write(self, scans: Sequence[AtlasScan], poses: Poses, template: Template, given: AtlasScan | None) -> None:
        """Write the atlas and the aligned scans.

        Files with the same inputs are kept, and files of failed scans are deleted.
        """
        atlas = self.out / ATLAS
        if not (given and atlas.exists() and atlas.samefile(given.scan)) and not self._is_current(
            ATLAS, template.key, [atlas]
        ):
            write_image(atlas, given.read() if given else template.images[0])
            self._save(ATLAS, template.key)
        for scan in scans:
            if scan.name not in poses:
                for path in self._paths(scan):
                    with suppress(OSError):  # a name that is too long for a file
                        path.unlink()

        def key_of(scan: AtlasScan) -> str:
            labels = [file_stamp(scan.labels)] if scan.labels else []
            return digest(scan.stamp(), labels, poses[scan.name].tolist(), grid_geometry(template.grid))

        def work(scan: AtlasScan) -> None:
            key = key_of(scan)
            _write_aligned(scan, affine_transform(poses[scan.name]), template.grid, *self._paths(scan))
            self._save(scan.name, key)

        known = [scan for scan in scans if scan.name in poses]
        self._run_stage(
            "writing", known, work, lambda scan: self._is_current(scan.name, key_of(scan), self._paths(scan))
        )
        if self._state != self._before:
            self._save()

    def _paths(self, scan: AtlasScan) -> list[Path]:
        names = ("affine.tfm", "aligned.nii.gz", *(["labels.nii.gz"] if scan.labels else []))
        return [self.out / f"{scan.name}_{name}" for name in names]

    def _find_start(self, scan: AtlasScan, template: Template, initial: np.ndarray | None) -> Start:
        atlas, known = template.images
        given = None if initial is None else Start(name="before", transform=affine_transform(initial), rivals={})
        windows = ((0.0, 1.0), (0.0, 1.0))
        start = best_start(
            atlas, scan.read_scaled(), self.config, net=self._net, clips=windows, masks=(known, None), given=given
        )
        # The mean pose needs real logarithms, which mirrored and half-turned poses do not have.
        values = np.linalg.eigvals(homogeneous(start.transform)[:3, :3])
        if (values.real[np.abs(values.imag) < _EIGENVALUE_TOLERANCE] < _EIGENVALUE_TOLERANCE).any():
            raise InputError(
                f"{scan.name}: agrees best when mirrored or rotated by 180 degrees; check the directions in its header"
            )
        return start

    def _run_stage(
        self,
        stage: str,
        scans: Sequence[AtlasScan],
        work: Callable[[AtlasScan], None],
        is_done: Callable[[AtlasScan], bool],
    ) -> Outcome:
        log.info("%s", stage)
        outcome = run_batch(
            {scan.name: scan for scan in scans}, work, noun=f"{stage}, scan", is_done=is_done, failures=self.out
        )
        for scan in scans:
            self.outcome.failed.pop(scan.name, None)
        self.outcome.failed |= outcome.failed
        return outcome

    def _is_current(self, name: str, key: str, paths: Sequence[Path]) -> bool:
        return self._state["written"].get(name) == key and all(path.exists() for path in paths)

    def _save(self, name: str | None = None, key: str | None = None) -> None:
        """Write the state, after recording the inputs of a written file, if any."""
        if name:
            self._state["written"][name] = key
        write_text(self.out / STATE, json.dumps(self._state, indent=1) + "\n")


def _write_aligned(
    scan: AtlasScan, transform: sitk.AffineTransform, grid: sitk.Image, affine: Path, aligned: Path, *labels: Path
) -> None:
    image = scan.read()
    write_transform(affine, transform)
    write_image(aligned, resample_image(image, grid, transform))
    if scan.labels is not None:
        role = f"{scan.name}, labels"
        for path in labels:
            moved = validate_labels(read_image(scan.labels, role), image, role)
            write_image(path, resample_image(moved, grid, transform, nearest=True))


def _first_readable(scans: Sequence[AtlasScan], spacing_mm: float | None) -> tuple[AtlasScan, sitk.Image]:
    """Return the first readable scan, and the grid of the atlas over it."""
    reasons = []
    for scan in scans:
        try:
            return scan, near_isotropic_grid(scan.read_scaled(), spacing_mm=spacing_mm, at_most_voxels=LARGEST_FIELD)
        except InputError as error:
            reasons.append(str(error))
    raise InputError(f"expected scans to compute an atlas from, found no readable one: {'; '.join(reasons)}")


def _format_failures(failed: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in failed.items())
