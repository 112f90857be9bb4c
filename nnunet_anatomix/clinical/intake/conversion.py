"""Conversion of one case to nnU-Net input files.

The source record is written last: a case that has one is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.cases import (
    SOURCES,
    CaseSource,
    ChannelSource,
    image_file,
    read_source,
    source_file,
    write_source,
)
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.values import prepare_values
from pretraining.common.errors import InputError
from pretraining.imaging.grids import ROUNDED_HEADERS_VOX, Grid, same_grid
from pretraining.imaging.rejection import Unusable
from pretraining.imaging.writing import write_image

CONVERTING = "converting"
"""Folder in DST for files that are being written; removed when a run ends."""
MIN_COVERED = 0.5
"""Fraction of channel 0's grid that another channel must cover to be resampled onto it."""


@dataclass(frozen=True, kw_only=True)
class CaseJob:
    """Input of one conversion; picklable, so that another process can run it."""

    root: Path
    destination: Path
    case: str
    file_ending: str
    channels: tuple[Channel, ...]
    series: tuple[Series, ...]
    """One series per channel."""
    resampled: tuple[bool, ...]
    """Per channel: True if it must be resampled onto the grid of channel 0."""

    def sources(self) -> tuple[ChannelSource, ...]:
        """Return the channels of the source record, without the size of the written images."""
        return tuple(
            ChannelSource(
                channel=channel.number,
                name=channel.name,
                kind=series.kind,
                root=str(self.root),
                files=series.files,
                frames=series.frames,
                volume=series.volume,
                positions_mm=series.positions_mm,
                slice_size=series.slice_size,
                series_uid=series.series_uid,
                study_uid=series.study_uid,
                resampled=resampled,
                fingerprint=series.fingerprint,
                unit="SUVbw" if channel.wants_suv and series.modality == "PT" else "",
            )
            for channel, series, resampled in zip(self.channels, self.series, self.resampled, strict=True)
        )


@dataclass(frozen=True)
class ConversionResult:
    """Result of one conversion."""

    reason: str = ""
    """Reason why the case cannot be taken; empty on success."""
    channel: int = 0
    """Index of the channel that the reason refers to."""
    notes: tuple[str, ...] = ()
    """Remarks on each channel of a case that is taken."""


def is_converted(job: CaseJob) -> bool:
    """Return whether an earlier run converted the same files and all its images still exist."""
    try:
        record = read_source(source_file(job.destination, job.case))
    except InputError:
        return False
    if record.case != job.case or record.file_ending != job.file_ending:
        return False
    if tuple(replace(channel, image_bytes=0, note="") for channel in record.channels) != job.sources():
        return False
    files = [image_file(job.destination, job.case, channel.channel, job.file_ending) for channel in record.channels]
    return all(
        file.is_file() and file.stat().st_size == channel.image_bytes
        for file, channel in zip(files, record.channels, strict=True)
    )


def convert(job: CaseJob) -> ConversionResult:
    """Read, check and write one case.

    The files of an earlier run are kept until all new images are on disk. The source record is
    written last. If the case turns out to be unusable, all its files are removed.
    """
    image_file(job.destination, job.case, 0, job.file_ending).parent.mkdir(parents=True, exist_ok=True)
    channel = 0
    notes: dict[int, str] = {}
    try:
        with quiet_readers():
            first, notes[0] = prepare_values(read_series(job.root, job.series[0]), job.series[0], job.channels[0])
            written = []
            for channel, (series, resampled, source) in enumerate(
                zip(job.series, job.resampled, job.sources(), strict=True)
            ):
                image = first
                if channel:
                    image, notes[channel] = prepare_values(read_series(job.root, series), series, job.channels[channel])
                if channel and resampled:
                    image, covered = resample_to_grid(first, image)
                    if covered < 0.995:
                        said = f"covers {100 * covered:.0f} % of the grid of channel 0"
                        notes[channel] = "; ".join(filter(None, (notes[channel], said)))
                elif channel:
                    if not same_grid(image, first, within_vox=ROUNDED_HEADERS_VOX):
                        raise Unusable("grid differs from that of channel 0")
                    image.CopyInformation(first)  # headers may differ in the last digits
                path = (
                    job.destination / CONVERTING / image_file(job.destination, job.case, channel, job.file_ending).name
                )
                write_image(path, image)  # outside of images/: nnU-Net would read a partial file
                written.append(replace(source, image_bytes=path.stat().st_size, note=notes[channel]))
    except Unusable as reason:
        remove_case(job.destination, job.case)
        return ConversionResult(str(reason), channel)
    remove_case(job.destination, job.case)
    for source in written:
        path = image_file(job.destination, job.case, source.channel, job.file_ending)
        (job.destination / CONVERTING / path.name).replace(path)
    write_source(
        job.destination,
        CaseSource(case=job.case, file_ending=job.file_ending, channels=tuple(written), grid=Grid.of(first)),
    )
    return ConversionResult(notes=tuple(source.note for source in written))


def resample_to_grid(fixed: sitk.Image, moving: sitk.Image) -> tuple[sitk.Image, float]:
    """Resample ``moving`` linearly onto the grid of ``fixed``.

    Returns:
        The image, filled with the smallest value of ``moving`` where that has no voxels, and the
            fraction of the grid that ``moving`` covers.

    Raises:
        Unusable: If that fraction is less than :data:`MIN_COVERED`.
    """
    size = moving.GetSize()
    covers = sitk.Image(size, sitk.sitkUInt8) + 1
    covers.CopyInformation(moving)
    covers = sitk.Resample(covers, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    covered = float(np.mean(sitk.GetArrayViewFromImage(covers)))
    if covered < MIN_COVERED:
        raise Unusable(f"covers only {100 * covered:.0f} % of the grid of channel 0")
    lowest = float(sitk.GetArrayViewFromImage(moving).min())
    image = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, lowest)
    return image, covered


def remove_case(destination: Path, case: str) -> None:
    """Remove the source record, then the images, of one case."""
    source_file(destination, case).unlink(missing_ok=True)
    folder = image_file(destination, case, 0, "").parent
    if folder.is_dir():
        for file in folder.glob(f"{case}_[0-9][0-9][0-9][0-9].*"):
            file.unlink(missing_ok=True)


def find_orphan_cases(destination: Path, known: Sequence[str]) -> list[str]:
    """Return the cases that have a source record in ``destination`` but are not in ``known``."""
    records = (destination / SOURCES).glob("case_*.json")
    return sorted({record.stem for record in records} - set(known))
