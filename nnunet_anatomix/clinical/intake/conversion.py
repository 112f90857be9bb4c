"""One case to nnU-Net's input files, link last: a case with a link is complete."""

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
from nnunet_anatomix.clinical.phrases import Unusable
from pretraining.common.errors import InputError
from pretraining.imaging.grids import ROUNDED_HEADERS_VOX, Grid, same_grid
from pretraining.imaging.writing import write_image

CONVERTING = "converting"
"""Folder in DST for files that are being written; gone when a run ends."""
MIN_COVERED = 0.5
"""Share of channel 0's grid that another channel must cover to be resampled onto it."""


@dataclass(frozen=True, kw_only=True)
class CaseJob:
    """All that converting one case takes; goes to another process."""

    root: Path
    destination: Path
    case: str
    file_ending: str
    channels: tuple[Channel, ...]
    series: tuple[Series, ...]
    """One for each channel."""
    resampled: tuple[bool, ...]

    def sources(self) -> tuple[ChannelSource, ...]:
        """What the link says before anything is written."""
        return tuple(
            ChannelSource(
                channel=channel.number,
                name=channel.name,
                kind=series.kind,
                root=str(self.root),
                files=series.files,
                frames=series.frames,
                series_uid=series.series_uid,
                study_uid=series.study_uid,
                resampled=resampled,
                fingerprint=series.fingerprint,
            )
            for channel, series, resampled in zip(self.channels, self.series, self.resampled, strict=True)
        )


@dataclass(frozen=True)
class Converted:
    """What became of a case: nothing to say if all went well, else a reason and the number of the channel it is about."""

    reason: str = ""
    channel: int = 0
    note: str = ""


def is_converted(job: CaseJob) -> bool:
    """Whether an earlier run wrote this very case from these very files, and all of it is still there."""
    try:
        link = read_source(source_file(job.destination, job.case))
    except InputError:
        return False
    if link.case != job.case or link.file_ending != job.file_ending:
        return False
    if tuple(replace(channel, image_bytes=0) for channel in link.channels) != job.sources():
        return False
    files = [image_file(job.destination, job.case, channel.channel, job.file_ending) for channel in link.channels]
    return all(
        file.is_file() and file.stat().st_size == channel.image_bytes
        for file, channel in zip(files, link.channels, strict=True)
    )


def convert(job: CaseJob) -> Converted:
    """Read, check and write one case.

    What an earlier run made of it stays until all new images are complete on disk; the new link is
    written last. If the case turns out to be unusable, none of its files stay.
    """
    image_file(job.destination, job.case, 0, job.file_ending).parent.mkdir(parents=True, exist_ok=True)
    channel = 0
    notes: list[str] = []
    try:
        with quiet_readers():
            first = read_series(job.root, job.series[0])
            written = []
            for channel, (series, resampled, source) in enumerate(
                zip(job.series, job.resampled, job.sources(), strict=True)
            ):
                image = first if channel == 0 else read_series(job.root, series)
                if channel and resampled:
                    image, covered = on_grid_of(first, image)
                    if covered < 0.995:
                        notes.append(f"{job.channels[channel]} covers {100 * covered:.0f} % of the grid of channel 0")
                elif channel:
                    if not same_grid(image, first, within_vox=ROUNDED_HEADERS_VOX):
                        raise Unusable("lies on another grid than channel 0")
                    image.CopyInformation(first)  # the last digits of headers differ
                path = (
                    job.destination / CONVERTING / image_file(job.destination, job.case, channel, job.file_ending).name
                )
                write_image(path, image)  # beside the folder of images: nnU-Net would take a half-written file for one
                written.append(replace(source, image_bytes=path.stat().st_size))
    except Unusable as reason:
        remove_case(job.destination, job.case)
        return Converted(str(reason), channel)
    remove_case(job.destination, job.case)
    for source in written:
        path = image_file(job.destination, job.case, source.channel, job.file_ending)
        (job.destination / CONVERTING / path.name).replace(path)
    write_source(
        job.destination,
        CaseSource(case=job.case, file_ending=job.file_ending, channels=tuple(written), grid=Grid.of(first)),
    )
    return Converted(note="; ".join(notes))


def on_grid_of(fixed: sitk.Image, moving: sitk.Image) -> tuple[sitk.Image, float]:
    """Resample ``moving`` linearly onto the grid of ``fixed``, where its own smallest value fills what it does not cover.

    Returns:
        The image, and the share of the grid that it covers.

    Raises:
        Unusable: If that is less than :data:`MIN_COVERED`.
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
    """Remove the link, then the images, of one case."""
    source_file(destination, case).unlink(missing_ok=True)
    folder = image_file(destination, case, 0, "").parent
    if folder.is_dir():
        for file in folder.glob(f"{case}_[0-9][0-9][0-9][0-9].*"):
            file.unlink(missing_ok=True)


def left_over(destination: Path, known: Sequence[str]) -> list[str]:
    """Cases with a link in ``destination`` that are not among those named."""
    links = (destination / SOURCES).glob("case_*.json")
    return sorted({link.stem for link in links} - set(known))
