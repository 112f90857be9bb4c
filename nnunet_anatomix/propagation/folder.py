"""Label propagation for a folder of scans: one file per scan, as nnU-Net writes predictions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.propagation.fusion import Fusion, RegisteredAtlas
from nnunet_anatomix.propagation.labelled_scans import LabelledScans, read_channels
from nnunet_anatomix.propagation.pictures import draw_propagations
from nnunet_anatomix.propagation.presets import SOLVER, PresetName, configure
from nnunet_anatomix.propagation.propagate import (
    Propagation,
    PropagationConfig,
    Resources,
    fuse_atlases,
    rank_atlases,
    register_atlas,
)
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_state, fingerprint
from pretraining.common.tables import write_csv
from pretraining.imaging.dataset_json import DATASET_FILE
from pretraining.imaging.grids import Grid, image_on
from pretraining.imaging.writing import write_image

log = logging.getLogger(__name__)

AGREEMENT, RECORDS, TABLE, PICTURE = "agreement", "records", "propagation.csv", "overview.png"
_DRAWN = 8
"""Number of scans in the figure, those that differ most from their atlases."""
_LEAST_AGREEMENT = 0.6
"""Agreement below which a result is reported as doubtful."""
_GREATEST_DIFFERENCE = 1.25
"""Difference relative to labelled scans above which a result is reported as doubtful. On pairs of
training scans, it finds those with a Dice below .72 (fetal brains) or .77 (hippocampi).
"""


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """Settings that all scans of a folder share.

    Attributes:
        preset: Preset of the registration.
        fusion: Rule of the vote.
        descriptors: Descriptors that are compared.
        resources: Network, memory and device.
        atlases: Number of atlases per scan, those that agree best; None for all.
        network_sha256: Checksum of the network's weights; None if features have no weight.
        usual_difference: Difference between a labelled scan and the others registered to it; None
            if it was not measured.
        usual_dice: Dice of a labelled scan that the others label; None if it was not measured.
    """

    preset: PresetName
    fusion: Fusion
    descriptors: DescriptorConfig
    resources: Resources
    atlases: int | None = None
    network_sha256: str | None = None
    usual_difference: float | None = None
    usual_dice: float | None = None

    @property
    def identity(self) -> list[Any]:
        """Settings that change the labels, for fingerprints."""
        return [self.preset, asdict(SOLVER), self.fusion, self.atlases, asdict(self.descriptors), self.network_sha256]


def find_scans(folder: Path, scans: LabelledScans, flag: str = "-i") -> dict[str, list[Path]]:
    """Find the scans in a folder with nnU-Net's names.

    Args:
        folder: Folder with ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` and so on.
        scans: Labelled scans, which determine the channels and the suffix.
        flag: Flag that names the folder, for messages.

    Returns:
        Case → one file per channel, cases sorted.

    Raises:
        InputError: If the folder is missing, holds no scan, or channels are missing.
    """
    ending, count = scans.description.file_ending, len(scans.description.channel_names)
    if not folder.is_dir():
        raise InputError(f"{flag}: no folder {folder}; give a folder of scans named CASE_0000{ending}")
    first = f"_0000{ending}"
    names = sorted(
        file.name.removesuffix(first)
        for file in folder.iterdir()
        if file.name.endswith(first) and not file.name.startswith(".")
    )
    if not names:
        raise InputError(f"{flag}: expected scans named CASE_0000{ending} in {folder}, found none; rename them so")
    found = {name: [folder / f"{name}_{channel:04d}{ending}" for channel in range(count)] for name in names}
    for name, files in found.items():
        if missing := [file.name for file in files if not file.is_file()]:
            raise InputError(
                f"{flag}: case '{name}' has no {missing[0]}, and {scans.dataset.name} has {count} channels; add it"
            )
    return found


def propagate_folder(
    scans: LabelledScans, inputs: dict[str, list[Path]], out: Path, settings: FolderSettings
) -> dict[str, dict]:
    """Label every scan, and write labels, maps of agreement, a table and a figure.

    Args:
        scans: Labelled scans.
        inputs: Scans from :func:`find_scans`.
        out: Folder for the results; scans that are finished with the same inputs are kept.
        settings: Settings of all scans.

    Returns:
        Record of every finished case.

    Raises:
        CommandFailed: If scans failed, after all others.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    ending = scans.description.file_ending
    labelled = [file_state(file) for name in scans.names for file in scans.files(name)]
    write_text(out / DATASET_FILE, json.dumps(dict(scans.description.content), indent=1) + "\n")

    def digest(case: str) -> str:
        files = [file_state(file) for file in inputs[case]]
        return fingerprint([files, labelled, *settings.identity])

    def is_done(case: str) -> bool:
        record = read_record(out, case)
        return record is not None and record["fingerprint"] == digest(case) and (out / f"{case}{ending}").is_file()

    def work(case: str) -> None:
        begin = time.perf_counter()
        channels = read_channels(inputs[case], case)
        config, registered = register_atlases(scans, case, channels, settings)
        result = fuse_atlases(channels[0], registered, config, ignore=scans.ignore)
        write_case(out, case, ending, channels[0], result)
        seconds = round(time.perf_counter() - begin, 1)
        record = {"fingerprint": digest(case), **describe_result(scans, result), "seconds": seconds}
        write_text(out / RECORDS / f"{case}.json", json.dumps(record, indent=1) + "\n")
        log.info("%s: %s, %.0f s", case, _describe(record, settings.usual_difference), seconds)

    outcome = run_batch({case: case for case in inputs}, work, noun="scan", is_done=is_done, failures=out)
    records = _write_table(out, list(inputs), settings.usual_difference)
    if records:
        worst = sorted(records, key=lambda case: -records[case]["difference"])[:_DRAWN]
        files = {case: (inputs[case][0], out / f"{case}{ending}", out / AGREEMENT / f"{case}.nii.gz") for case in worst}
        draw_propagations(
            out / PICTURE, {f"{case}, agreement {records[case]['agreement']:.2f}": files[case] for case in worst}
        )
    outcome.require_all("scans", see=out / FAILURES)
    return records


def read_record(out: Path, case: str) -> dict | None:
    """Read what is recorded of a finished case; None if there is nothing valid."""
    try:
        record = json.loads((out / RECORDS / f"{case}.json").read_text(encoding="utf-8"))
        return record if {"fingerprint", "agreement", "difference", "by_label"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def register_atlases(
    scans: LabelledScans, case: str, channels: Sequence[sitk.Image], settings: FolderSettings
) -> tuple[PropagationConfig, list[RegisteredAtlas]]:
    """Register labelled scans to a scan.

    Args:
        scans: Labelled scans.
        case: Name of the scan. A labelled scan of this name is left out, so that none labels
            itself.
        channels: Channels of the scan.
        settings: Settings of all scans.

    Returns:
        Settings for this scan, and the registered scans.
    """
    config = configure(settings.preset, settings.fusion, settings.descriptors, channels[0])
    names = [name for name in scans.names if name != case]
    if settings.atlases is not None and settings.atlases < len(names):
        names = rank_atlases(channels, map(scans.read, names), config.registration, settings.resources)
        names = names[: settings.atlases]
    return config, [
        register_atlas(channels, scans.read(name), config.registration, settings.resources) for name in names
    ]


def write_case(out: Path, case: str, ending: str, scan: sitk.Image, result: Propagation) -> None:
    """Write labels, and their agreement in per cent.

    Args:
        out: Folder of the results.
        case: Name of the scan.
        ending: Suffix of the label file.
        scan: Any image on the scan's grid.
        result: Labels and agreement.
    """
    grid = Grid.of(scan)
    kind = np.uint8 if result.labels.max() < 256 else np.uint16
    agreement = np.round(100 * result.agreement_map).astype(np.uint8)
    write_image(out / AGREEMENT / f"{case}.nii.gz", image_on(grid, agreement.transpose(2, 1, 0)))
    write_image(out / f"{case}{ending}", image_on(grid, result.labels.transpose(2, 1, 0).astype(kind)))


def describe_result(scans: LabelledScans, result: Propagation) -> dict[str, Any]:
    """Return what is recorded of a finished case: how far the labels can be trusted."""
    names = _label_names(scans)
    return {
        "agreement": round(result.agreement, 4),
        "difference": result.difference,
        "by_label": {names.get(k, str(k)): round(v, 4) for k, v in result.agreement_by_label.items()},
        "atlases": result.atlases,
    }


def is_doubtful(record: Mapping, usual: float | None) -> bool:
    """Return whether labels should not be used without looking at them.

    Args:
        record: Result of :func:`describe_result`.
        usual: Difference between a labelled scan and the others; None if it is unknown.
    """
    # "Not less than" is also true of NaN.
    return record["agreement"] < _LEAST_AGREEMENT or bool(
        usual and not record["difference"] / usual <= _GREATEST_DIFFERENCE
    )


def _label_names(scans: LabelledScans) -> dict[int, str]:
    """Return label → name, for labels with a name of their own."""
    return {numbers[0]: name for name, numbers in scans.description.foreground.items() if len(numbers) == 1}


def _describe(record: Mapping, usual: float | None) -> str:
    """Say how far the atlases agree, how different they are, and whether that is doubtful."""
    line = f"agreement {record['agreement']:.3f}"
    if usual:
        line += f", {record['difference'] / usual:.2f} times the difference between labelled scans"
    return line + (" (doubtful: look at it)" if is_doubtful(record, usual) else "")


def _write_table(out: Path, cases: Sequence[str], usual: float | None) -> dict[str, dict]:
    records = {case: record for case in cases if (record := read_record(out, case))}
    labels = list(dict.fromkeys(label for record in records.values() for label in record["by_label"]))
    rows = []
    for case, record in records.items():
        by_label = (record["by_label"].get(label, "") for label in labels)
        relative = round(record["difference"] / usual, 3) if usual else ""
        atlases = " ".join(record["atlases"])
        rows.append([case, relative, f"{record['difference']:.5f}", record["agreement"], *by_label, atlases])
    write_csv(out / TABLE, ["case", "relative_difference", "difference", "agreement", *labels, "atlases"], rows)
    return records
