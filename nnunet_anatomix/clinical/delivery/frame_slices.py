"""Slices that are frames of several files or tiles of a mosaic, as headers of single-frame files.

highdicom refers to single-frame files or to one enhanced file. All other slices get headers with
instance UIDs of their own, which are replaced in the finished object by file and frame number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage, generate_uid

from nnunet_anatomix.clinical.cases import ChannelSource
from nnunet_anatomix.clinical.dicom.expansion import read_slices
from nnunet_anatomix.clinical.dicom.headers import SliceHeader

_SINGLE_FRAME = {"CT": CTImageStorage, "PT": PositronEmissionTomographyImageStorage}
"""Modality → SOP class of single-frame files; MR for all others."""
_NOT_COPIED = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames", "PixelData")


class FrameReference(NamedTuple):
    """File and frame that a slice represents."""

    sop_class: str
    sop_instance: str
    frame: int | None
    """Frame number, from 1; None for a tile of a mosaic."""


def needs_single_headers(channel: ChannelSource, images: Sequence[Dataset]) -> bool:
    """Return whether highdicom cannot refer to the slices of a channel by itself.

    Args:
        channel: Source of the channel.
        images: Headers of its files.
    """
    if not channel.frames:
        return False
    frames = int(images[0].get("NumberOfFrames") or 1)
    is_enhanced = frames > 1 and "PerFrameFunctionalGroupsSequence" in images[0]
    return len(channel.files) > 1 or not is_enhanced or len(channel.frames) < frames  # one volume of several


def single_headers(
    channel: ChannelSource, images: Mapping[str, Dataset]
) -> tuple[list[Dataset], dict[str, FrameReference]]:
    """Return a header per slice, and the file and frame that each represents.

    Args:
        channel: Source of the channel, with a frame number per slice.
        images: Name of a file → its header.

    Returns:
        Headers in the order of slices; their instance UID → file and frame.

    Raises:
        Unusable: If the files have no positions any more.
        OSError: If a file cannot be opened.
    """
    files = channel.files if len(channel.files) > 1 else channel.files * len(channel.frames)
    slices = {file: read_slices(Path(channel.root) / file, file) for file in dict.fromkeys(files)}
    headers, references = [], {}
    for file, number in zip(files, channel.frames, strict=True):
        one = next(header for header in slices[file] if header.frame == number)
        header = _single_header(images[file], one)
        uid = str(images[file].SOPInstanceUID)
        header.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(number)])
        headers.append(header)
        references[str(header.SOPInstanceUID)] = FrameReference(
            str(images[file].SOPClassUID), uid, None if one.tiles else number
        )
    return headers, references


def _single_header(image: Dataset, one: SliceHeader) -> Dataset:
    header = Dataset()
    for element in image:
        if element.keyword not in _NOT_COPIED:
            header.add(copy(element))
    header.file_meta = image.file_meta
    header.SOPClassUID = _SINGLE_FRAME.get(image.Modality, MRImageStorage)
    header.Rows, header.Columns = one.rows, one.columns
    if one.position_mm is not None:
        header.ImagePositionPatient = [f"{mm:.10g}" for mm in one.position_mm]
    if one.orientation is not None:
        header.ImageOrientationPatient = [f"{cosine:.10g}" for cosine in one.orientation]
    if one.pixel_spacing_mm is not None:
        header.PixelSpacing = [f"{mm:.10g}" for mm in one.pixel_spacing_mm]
    if one.thickness_mm is not None:
        header.SliceThickness = f"{one.thickness_mm:.10g}"
    return header


def restore_references(dataset: Dataset, references: Mapping[str, FrameReference]) -> None:
    """Let a DICOM object refer to files and frames instead of single-frame headers.

    Args:
        dataset: Object to change, at all levels.
        references: Instance UID of a header → file and frame.
    """
    if not references:
        return
    for element in dataset:
        if element.VR != "SQ" or not element.value:
            continue
        seen: set[str] = set()
        kept = []
        for item in element.value:
            reference = references.get(str(item.get("ReferencedSOPInstanceUID") or ""))
            if reference is None:
                restore_references(item, references)
            else:
                item.ReferencedSOPClassUID = reference.sop_class
                item.ReferencedSOPInstanceUID = reference.sop_instance
                if element.keyword == "ReferencedInstanceSequence":  # each file once
                    if reference.sop_instance in seen:
                        continue
                    seen.add(reference.sop_instance)
                elif reference.frame is not None:
                    item.ReferencedFrameNumber = reference.frame
                elif "SpatialLocationsPreserved" in item:
                    item.SpatialLocationsPreserved = "NO"
            kept.append(item)
        if len(kept) < len(element.value):
            element.value = kept
