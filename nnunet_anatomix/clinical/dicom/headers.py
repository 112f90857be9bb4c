"""Header of one DICOM file: the tags that intake needs, and a check of the pixel data's length."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from nnunet_anatomix.clinical.dicom.content import KEYWORDS, PRIVATE_TAGS, UNKNOWN, Content, read_content
from nnunet_anatomix.clinical.dicom.deflated import find_inflation_problem
from nnunet_anatomix.clinical.dicom.parsing import DAMAGED, NOT_AN_IMAGE, describe_damage, is_other_object, parse_header
from nnunet_anatomix.clinical.dicom.pixel_data import DECODABLE, MAX_IMAGE_BYTES, find_pixel_problem
from nnunet_anatomix.clinical.walk import FoundFile
from pretraining.imaging.rejection import Unusable

_ESSENTIAL = (
    "ImagePositionPatient ImageOrientationPatient PixelSpacing SamplesPerPixel NumberOfFrames Rows Columns "
    "BitsAllocated RescaleSlope RescaleIntercept"
)
_USEFUL = (
    "ImageType SOPClassUID SOPInstanceUID Modality SeriesDescription PatientID StudyInstanceUID SeriesInstanceUID "
    "SeriesNumber FrameOfReferenceUID PhotometricInterpretation RescaleType ConvolutionKernel EchoTime InversionTime "
    "FlipAngle TriggerTime TemporalPositionIdentifier AcquisitionNumber InstanceNumber DiffusionBValue "
    "ContrastBolusAgent LossyImageCompression SliceThickness BodyPartExamined"
)
_META = "MediaStorageSOPClassUID MediaStorageSOPInstanceUID TransferSyntaxUID"
_TAG_OF = {keyword: Tag(keyword) for keyword in f"{_ESSENTIAL} {_USEFUL} {_META} SpecificCharacterSet".split()}
_TAG_OF |= {keyword: Tag(keyword) for keyword in KEYWORDS} | {name: Tag(tag) for name, tag in PRIVATE_TAGS.items()}
_B_VALUES = {
    "SiemensBValue": ("SIEMENS MR HEADER", 0x0019100C),
    "PhilipsBValue": ("Philips Imaging DD 001", 0x20011003),
    "GEBValue": ("GEMS_PARM_01", 0x00431039),
}
"""Name → private creator and tag, in the block that the scanner uses."""
for _name, (_, _tag) in _B_VALUES.items():
    _TAG_OF |= {_name: Tag(_tag), f"{_name}Creator": Tag(_tag & 0xFFFF0000 | 0x10)}
# Most tags are missing, and numbers are looked up faster than pydicom's tags.
_NUMBER_OF = {keyword: int(tag) for keyword, tag in _TAG_OF.items()}
_READ = [int(tag) for tag in _TAG_OF.values()]
_SHORTS = "Rows Columns SamplesPerPixel BitsAllocated BitsStored PixelRepresentation PixelPaddingValue"
_BINARY = dict.fromkeys(_SHORTS.split(), "H") | {"GEImageType": "h", "DiffusionBValue": "d", "PhilipsBValue": "f"}
"""Keyword of a binary number → its ``struct`` format character."""
VOLUME_TAGS = (
    "echo_time",
    "b_value",
    "inversion_time",
    "flip_angle",
    "temporal_position",
    "trigger_time",
    "acquisition",
    "image_type",
    "part",
)
"""Fields that distinguish the volumes of one series."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceHeader:
    """Header of one DICOM file. Missing or damaged numbers are None, missing texts are empty."""

    file: FoundFile
    problem: str = ""
    """Reason why this file cannot be used; empty if there is none."""
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    instance_uid: str = ""
    frame_uid: str = ""
    modality: str = ""
    description: str = ""
    body_part: str = ""
    series_number: str = ""
    instance: float | None = None
    image_type: tuple[str, ...] = ()
    rows: int = 0
    columns: int = 0
    samples: int = 1
    photometric: str = ""
    frames: int = 1
    frame: int = 0
    """Frame number, from 1, if the header is that of one frame of a multi-frame file; else 0."""
    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing_mm: tuple[float, ...] | None = None
    """Row spacing, then column spacing, as in the tag."""
    slope: float | None = None
    intercept: float | None = None
    rescale_type: str = ""
    kernel: str = ""
    content: Content = UNKNOWN
    """Content of the pixels."""
    lossy: bool = False
    sop_class: str = ""
    thickness_mm: float | None = None
    stack: str = ""
    tiles: int = 0
    """Number of slices in each row of a mosaic, if this is the header of one of them; else 0."""
    coding: str = ""
    echo_time: float | None = None
    b_value: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    temporal_position: float | None = None
    trigger_time: float | None = None
    acquisition: float | None = None

    @property
    def part(self) -> str:
        """Quantity of an MR image: ``magnitude``, or see :attr:`Content.part`."""
        return (self.content.part or "magnitude").removesuffix(" part").replace(" ", "_")

    @property
    def is_enhanced(self) -> bool:
        """True if the places of the frames stand in functional groups."""
        return "Enhanced" in UID(self.sop_class).name


def is_dicom(head: bytes) -> bool:
    """Return whether a file starts like DICOM.

    The first 132 bytes end in the DICM prefix, or, in old archives without a preamble, the file
    starts with an element of group 2 or 8.
    """
    if head[128:132] == b"DICM":
        return True
    return len(head) > 132 and head[:2] in (b"\x02\x00", b"\x08\x00") and head[2:4] <= b"\x18\x00" and head[3] == 0


def read_slice_header(found: FoundFile, stream: BinaryIO, head: bytes) -> SliceHeader:
    """Read the header of one file.

    Args:
        found: Path and size of the file.
        stream: Open file.
        head: First :data:`HEAD_BYTES` of the file.

    Raises:
        Unusable: If the header is damaged before the series UID, or if the file is a DICOM
            directory.
    """
    try:
        parsed = parse_header(stream, head, found.size_bytes, _READ)
    except Exception:  # pydicom raises many types for damaged bytes
        raise Unusable(describe_damage(head)) from None
    dataset, data_at = parsed.dataset, parsed.data_at
    meta, values = _Values(dataset.file_meta), _Values(dataset)
    sop_class = values.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID")
    if meta.text("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise Unusable("DICOM directory file, not an image")
    series_uid, instance_uid = values.text("SeriesInstanceUID"), values.text("SOPInstanceUID")
    if data_at is None and not series_uid and not values.number("Rows"):
        raise Unusable(DAMAGED)
    syntax = UID(meta.text("TransferSyntaxUID") or ImplicitVRLittleEndian)
    modality, image_type = values.text("Modality"), values.texts("ImageType")
    header: dict[str, Any] = {
        "patient_id": values.text("PatientID"),
        "study_uid": values.text("StudyInstanceUID"),
        "series_uid": series_uid,
        "instance_uid": instance_uid or meta.text("MediaStorageSOPInstanceUID"),
        "frame_uid": values.text("FrameOfReferenceUID"),
        "modality": modality,
        "description": values.decode_text("SeriesDescription"),
        "body_part": values.text("BodyPartExamined"),
        "series_number": values.text("SeriesNumber"),
        "instance": values.number("InstanceNumber"),
        "image_type": image_type,
        "rows": int(values.number("Rows") or 0),
        "columns": int(values.number("Columns") or 0),
        "samples": int(values.number("SamplesPerPixel") or 1),
        "photometric": values.text("PhotometricInterpretation"),
        "frames": int(values.number("NumberOfFrames") or 1),
        "position_mm": values.numbers("ImagePositionPatient", 3),
        "orientation": values.numbers("ImageOrientationPatient", 6),
        "pixel_spacing_mm": values.numbers("PixelSpacing", 2),
        "slope": values.number("RescaleSlope"),
        "intercept": values.number("RescaleIntercept"),
        "rescale_type": values.text("RescaleType"),
        "kernel": "\\".join(values.texts("ConvolutionKernel")),
        "content": read_content(values, modality, image_type),
        "lossy": values.text("LossyImageCompression") == "01",
        "sop_class": sop_class,
        "thickness_mm": values.number("SliceThickness"),
        "coding": DECODABLE.get(syntax, ""),
        "echo_time": values.number("EchoTime"),
        "b_value": values.b_value(),
        "inversion_time": values.number("InversionTime"),
        "flip_angle": values.number("FlipAngle"),
        "temporal_position": values.number("TemporalPositionIdentifier"),
        "trigger_time": values.number("TriggerTime"),
        "acquisition": values.number("AcquisitionNumber"),
    }
    bits = int(values.number("BitsAllocated") or 16)
    expected_bytes = math.ceil(header["rows"] * header["columns"] * header["samples"] * header["frames"] * bits / 8)
    problem = ""
    if damaged := [keyword for keyword in values.damaged if keyword in _ESSENTIAL.split()]:
        problem = f"tag {damaged[0]} is damaged"
    elif not header["rows"] or not header["columns"]:
        problem = NOT_AN_IMAGE if is_other_object(sop_class) else "no image size"
    elif parsed.deflated_at is not None and data_at is not None and expected_bytes <= MAX_IMAGE_BYTES:
        problem = find_inflation_problem(stream, parsed.deflated_at, found.size_bytes, data_at, expected_bytes)
    else:
        problem = find_pixel_problem(stream, data_at, found.size_bytes, expected_bytes, syntax)
    return SliceHeader(file=found, problem=problem, **header)


class _Values:
    """Tag values by keyword, converted from the raw bytes.

    pydicom's own conversion takes as long as its parsing. The keyword of a value that cannot be
    converted is added to ``damaged``; the value itself is never quoted.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.damaged: list[str] = []
        self._elements = {int(tag): element for tag, element in zip(dataset.keys(), dataset.values(), strict=True)}

    def _raw(self, keyword: str) -> tuple[bytes, bool] | None:
        """Return the raw value and whether it is little-endian."""
        element = self._elements.get(_NUMBER_OF[keyword])
        if element is None or not element.value:
            return None
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
            return element.value, element.is_little_endian
        self.damaged.append(keyword)  # a sequence instead of a value
        return None

    def decode_text(self, keyword: str) -> str:
        """Return a text decoded with the file's character set."""
        element = self._elements.get(_NUMBER_OF[keyword])
        value = element.value if isinstance(element, RawDataElement) else None
        if value and value.isascii() and b"\x1b" not in value:  # all character sets decode it alike
            return self.text(keyword)
        try:
            return str(self.dataset.get(keyword) or "").strip(" \0")
        except Exception:  # for example, an unknown character set
            return self.text(keyword)

    def text(self, keyword: str) -> str:
        """Return a text decoded as Latin-1; empty if the tag is missing."""
        element = self._elements.get(_NUMBER_OF[keyword])
        if element is None:
            return ""
        if isinstance(element, DataElement) and isinstance(element.value, str):  # already converted by pydicom
            return element.value.strip(" \0")
        raw = self._raw(keyword)
        return raw[0].decode("latin-1").strip(" \0") if raw else ""

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the parts of a multi-valued text."""
        text = self.text(keyword)
        return tuple(part.strip() for part in text.split("\\")) if text else ()

    def b_value(self) -> float | None:
        """Return the b-value of the standard tag, or of the scanner's private one."""
        if (b_value := self.number("DiffusionBValue")) is not None:
            return b_value
        for name, (creator, _) in _B_VALUES.items():
            if self.text(f"{name}Creator") == creator:
                if name != "GEBValue":
                    return self.number(name)
                first = self.texts(name)[:1]  # of four values; it may have a flag of 1e9
                return float(int(first[0]) % 10**6) if first and first[0].isdigit() else None
        return None

    def number(self, keyword: str) -> float | None:
        """Return a number; None if the tag is missing or damaged."""
        numbers = self.numbers(keyword, 1)
        return numbers[0] if numbers else None

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Return exactly ``count`` finite numbers; None if the tag is missing or damaged."""
        raw = self._raw(keyword)
        if raw is None:
            return None
        value, is_little_endian = raw
        numbers: tuple[float, ...]
        try:
            if kind := _BINARY.get(keyword):
                numbers = struct.unpack(f"{'<' if is_little_endian else '>'}{count}{kind}", value)
            else:
                text = value.decode("ascii").strip(" \0")
                if not text:
                    return None
                numbers = tuple(float(part) for part in text.split("\\"))
        except (struct.error, ValueError):
            numbers = ()
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            self.damaged.append(keyword)
            return None
        return numbers
