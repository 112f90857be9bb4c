"""What each case in ``DST/images`` was made from: ``DST/sources/CASE.json`` links it to its files, for ``deliver`` and for a second run.

A link holds UIDs and paths, which may name a patient: it stays in the clinic, like ``intake.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError
from pretraining.imaging.grids import Grid

IMAGES, SOURCES = "images", "sources"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ChannelSource:
    """What one channel was made from."""

    channel: int
    name: str
    """As in ``channel_names`` of the model."""
    kind: Literal["dicom", "image"]
    root: str
    """SRC, absolute."""
    files: tuple[str, ...]
    """Relative to ``root``, with forward slashes. DICOM: in the order of the written image's slices
    k = 0 ... n-1, or the one multi-frame file. Else the file to read, then its detached data if
    there are any.
    """
    frames: tuple[int, ...] = ()
    """Of a multi-frame file: frame numbers (from 1) in the order of slices; else empty."""
    series_uid: str = ""
    study_uid: str = ""
    resampled: bool = False
    """Onto the grid of channel 0."""
    fingerprint: str = ""
    """Of the files' names, sizes and times when they were read."""
    image_bytes: int = 0
    """Size of the image written."""

    def paths(self) -> list[Path]:
        return [Path(self.root) / file for file in self.files]


@dataclass(frozen=True, kw_only=True)
class CaseSource:
    """What one case was made from; channel 0 gives the grid."""

    case: str
    file_ending: str
    channels: tuple[ChannelSource, ...]
    grid: Grid


def image_file(destination: Path, case: str, channel: int, file_ending: str) -> Path:
    """Where nnU-Net looks for a channel: ``DST/images/case_001_0000.nii.gz``."""
    return destination / IMAGES / f"{case}_{channel:04d}{file_ending}"


def source_file(destination: Path, case: str) -> Path:
    return destination / SOURCES / f"{case}.json"


def write_source(destination: Path, source: CaseSource) -> None:
    """Write ``DST/sources/CASE.json``, whole or not at all."""
    write_text(
        source_file(destination, source.case), json.dumps({"format": _FORMAT, **asdict(source)}, indent=1) + "\n"
    )


def read_source(path: Path) -> CaseSource:
    """Read one link file.

    Raises:
        InputError: If it cannot be read or is none.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said.pop("format") != _FORMAT:
            raise ValueError("of another format")
        grid = Grid(**{name: tuple(value) for name, value in said.pop("grid").items()})
        channels = tuple(
            ChannelSource(**{**channel, "files": tuple(channel["files"]), "frames": tuple(channel.get("frames", ()))})
            for channel in said.pop("channels")
        )
        return CaseSource(**said, channels=channels, grid=grid)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"cannot read {path} ({type(error).__name__}); expected a link of nnunet-anatomix intake, format {_FORMAT}: run intake again"
        ) from None


def read_sources(destination: Path) -> Iterator[CaseSource]:
    """The links of all cases of an intake, in the order of case numbers."""
    for path in sorted((destination / SOURCES).glob("case_*.json"), key=lambda path: (len(path.name), path.name)):
        yield read_source(path)
