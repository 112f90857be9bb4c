"""Source records: ``DST/sources/CASE.json`` lists the files that a case is made from.

``deliver`` and later runs of ``intake`` read them. A record holds UIDs and paths, which may
identify a patient: like ``intake.csv``, it stays in the clinic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError
from pretraining.common.triple import triple
from pretraining.imaging.grids import Grid

IMAGES, SOURCES = "images", "sources"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ChannelSource:
    """Files and identifiers that one channel is made from."""

    channel: int
    name: str
    """Name in the model's ``channel_names``."""
    kind: Literal["dicom", "image"]
    root: str
    """Absolute path of SRC."""
    files: tuple[str, ...]
    """Paths relative to ``root``, with forward slashes.

    DICOM: the file of each slice k = 0 ... n-1 of the written image, or one file of all slices.
    Other formats: the image file, then its detached data file, if any.
    """
    frames: tuple[int, ...] = ()
    """Number (from 1) of each slice in its file: frame of a multi-frame file, or tile of a mosaic.
    Empty if each file is a slice.
    """
    volume: str = ""
    """Labels that identify the volume within its series; empty if the series is one volume."""
    positions_mm: tuple[tuple[float, float, float], ...] = ()
    """Positions of tilted or unevenly spaced slices (LPS), which the written image is resampled
    from; empty if the slices are its planes.
    """
    slice_size: tuple[int, ...] = ()
    """Columns and rows of those slices; otherwise empty."""
    series_uid: str = ""
    study_uid: str = ""
    resampled: bool = False
    """True if the channel is resampled onto the grid of channel 0."""
    fingerprint: str = ""
    """Hash of the files' names, sizes and modification times when they were read."""
    image_bytes: int = 0
    """Size of the written image, bytes."""
    unit: str = ""
    """``SUVbw`` if the values are converted to it; otherwise empty."""
    note: str = ""
    """Remark on the values of the written image."""

    def paths(self) -> list[Path]:
        """Return the absolute paths of the files."""
        return [Path(self.root) / file for file in self.files]


@dataclass(frozen=True, kw_only=True)
class CaseSource:
    """Source record of one case."""

    case: str
    file_ending: str
    channels: tuple[ChannelSource, ...]
    grid: Grid
    """Voxel grid of channel 0, shared by all channels."""

    def moved_to(self, root: Path | None) -> CaseSource:
        """Return the record with the files below another folder; the same record for None."""
        if root is None:
            return self
        return replace(self, channels=tuple(replace(channel, root=str(root)) for channel in self.channels))


def image_file(destination: Path, case: str, channel: int, file_ending: str) -> Path:
    """Return the path that nnU-Net expects for a channel: ``DST/images/case_001_0000.nii.gz``."""
    return destination / IMAGES / f"{case}_{channel:04d}{file_ending}"


def source_file(destination: Path, case: str) -> Path:
    """Return the path of a source record: ``DST/sources/CASE.json``."""
    return destination / SOURCES / f"{case}.json"


def write_source(destination: Path, source: CaseSource) -> None:
    """Write ``DST/sources/CASE.json`` atomically."""
    write_text(
        source_file(destination, source.case), json.dumps({"format": _FORMAT, **asdict(source)}, indent=1) + "\n"
    )


def read_source(path: Path) -> CaseSource:
    """Read one source record.

    Raises:
        InputError: If the file cannot be read or is not a source record.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != _FORMAT:
            raise ValueError("another format")
        grid = Grid(**{name: tuple(value) for name, value in stored.pop("grid").items()})
        channels = tuple(
            ChannelSource(
                **{
                    **channel,
                    "positions_mm": tuple(triple(place) for place in channel.get("positions_mm", ())),
                    **{name: tuple(channel.get(name, ())) for name in ("files", "frames", "slice_size")},
                }
            )
            for channel in stored.pop("channels")
        )
        return CaseSource(**stored, channels=channels, grid=grid)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"cannot read {path} ({type(error).__name__}); expected a source record of nnunet-anatomix intake, "
            f"format {_FORMAT}: run intake again"
        ) from None


def read_sources(destination: Path) -> Iterator[CaseSource]:
    """Yield the source records of all cases of an intake, in the order of case numbers."""
    for path in sorted((destination / SOURCES).glob("case_*.json"), key=lambda path: (len(path.name), path.name)):
        yield read_source(path)
