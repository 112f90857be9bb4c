"""Parsing of ``--map``: the user's choice of series per channel, which overrides the rules."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.series import Series
from pretraining.common.errors import InputError

FIELDS = ("description", "path", "modality", "volume", "series", "unit")
UNITS = ("suv", "stored")
"""Values of the field ``unit``: SUV by body weight, or PET values as they are stored."""
_EXPECTED = "expected CHANNEL=FIELD:PATTERN such as 0=description:*T1* or 1=series:1.2.3, FIELD one of " + ", ".join(
    FIELDS
)


@dataclass(frozen=True)
class ChannelMap:
    """Patterns for the series of one channel.

    A series must match one pattern of every field. A series UID alone selects a series, and
    excludes all others of its case.
    """

    patterns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Field → patterns; fields are those of :data:`FIELDS`."""

    @property
    def series_uids(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs selected for the channel."""
        return self.patterns.get("series", ())

    @property
    def has_patterns(self) -> bool:
        """True if there is a pattern for any field except the UID and the unit."""
        return bool(self.patterns.keys() - {"series", "unit"})

    @property
    def chooses(self) -> bool:
        """True if the map chooses series, not only their unit."""
        return bool(self.series_uids) or self.has_patterns

    @property
    def unit(self) -> str:
        """One of :data:`UNITS`; empty if the name of the channel decides."""
        return self.patterns.get("unit", ("",))[-1]

    def names(self, series: Series) -> bool:
        """Return whether the map contains the UID of a series."""
        return bool(series.series_uid) and series.series_uid in self.series_uids

    def selects(self, series: Series) -> bool:
        """Return whether the map contains the UID of a series, and the volume if it names one."""
        volumes = self.patterns.get("volume", ())
        return self.names(series) and (not volumes or any(_match(series.volume, pattern) for pattern in volumes))

    def matches(self, series: Series) -> bool:
        """Return whether a series matches all fields except the UID.

        Letter case does not matter. ``*`` and ``?`` are wildcards; ``*`` also matches slashes.
        """
        texts = {
            "description": (series.description,),
            "path": series.files,
            "modality": (series.modality,),
            "volume": (series.volume,),
        }
        return all(
            any(_match(text, pattern) for text in texts[name] for pattern in patterns)
            for name, patterns in self.patterns.items()
            if name not in ("series", "unit")
        )

    def overrides_rules(self, series: Series) -> bool:
        """Return whether the map names a series closely enough to take what the rules exclude.

        A UID does, a description, path or volume of DICOM that is more than a wildcard, and the
        whole path of an image file.
        """
        if self.selects(series):
            return True
        if series.kind == "image":
            return series.files[0].lower() in map(_unescape, self.patterns.get("path", ()))
        patterns = [pattern for name in ("description", "path", "volume") for pattern in self.patterns.get(name, ())]
        return any(re.search(r"\w", pattern.removesuffix(".dcm")) for pattern in patterns)


def map_line(channel: Channel, series: Series) -> str:
    """Return the option that takes a series for a channel, ready for a shell."""
    if series.series_uid:
        volume = [f"{channel.number}=volume:{glob.escape(series.volume)}"] if series.volume else []
        return shlex.join(["--map", f"{channel.number}=series:{series.series_uid}", *volume])
    return shlex.join(["--map", f"{channel.number}=path:{glob.escape(series.files[0])}"])


def _unescape(pattern: str) -> str:
    return re.sub(r"\[([*?[])\]", r"\1", pattern).lower()


def set_units(channels: Sequence[Channel], maps: Mapping[int, ChannelMap]) -> tuple[Channel, ...]:
    """Return the channels with the units that the maps ask for."""
    return tuple(
        replace(channel, unit=maps[channel.number].unit) if channel.number in maps else channel for channel in channels
    )


def _match(text: str, pattern: str) -> bool:
    return fnmatchcase(text.lower(), pattern.lower())


def parse_maps(maps: Iterable[str], channels: Sequence[Channel]) -> dict[int, ChannelMap]:
    """Read ``--map`` values.

    Args:
        maps: Values ``CHANNEL=FIELD:PATTERN``; CHANNEL is a number or a name of ``channel_names``.
        channels: Channels of the model.

    Returns:
        Channel number → map.

    Raises:
        InputError: For another syntax, a channel that the model does not have, or an invalid UID.
    """
    found: dict[int, dict[str, tuple[str, ...]]] = {}
    for text in maps:
        match = re.fullmatch(r"([^=]+)=(\w+):(.+)", text.strip())
        if not match or match[2].lower() not in FIELDS:
            raise InputError(f"--map '{text}': {_EXPECTED}")
        channel_text, name, pattern = match[1].strip(), match[2].lower(), match[3].strip()
        numbers = [channel.number for channel in channels if channel_text in (str(channel.number), channel.name)]
        if len(numbers) != 1:
            available = ", ".join(f"{channel.number} ({channel.name})" for channel in channels)
            raise InputError(f"--map '{text}': the model's channels are {available}; found '{channel_text}'")
        if name == "series" and not re.fullmatch(r"[0-9.]{1,64}", pattern):
            raise InputError(
                f"--map '{text}': expected a SeriesInstanceUID of digits and dots; copy it from intake.csv"
            )
        if name == "unit" and (pattern := pattern.lower()) not in UNITS:
            raise InputError(f"--map '{text}': expected the unit {' or '.join(UNITS)}")
        fields = found.setdefault(numbers[0], {})
        fields[name] = (*fields.get(name, ()), pattern)
    return {number: ChannelMap(patterns) for number, patterns in found.items()}


def check_uids(maps: Mapping[int, ChannelMap], series: Sequence[Series]) -> None:
    """Check that every UID of the maps belongs to a series.

    Raises:
        InputError: If no series has the UID; the message names it.
    """
    known_uids = {each.series_uid for each in series}
    for number, channel_map in maps.items():
        if missing := [uid for uid in channel_map.series_uids if uid not in known_uids]:
            raise InputError(
                f"--map {number}=series:{missing[0]}: SRC has no series with this UID; intake.csv lists all series"
            )


def check_channels(maps: Mapping[int, ChannelMap], channels: Sequence[Channel]) -> None:
    """Check that the name or a map of every channel tells which series to take.

    Raises:
        InputError: If one does not; the message names the channel.
    """
    names = [channel.name.lower() for channel in channels]
    for channel in channels:
        if channel.number in maps and maps[channel.number].chooses:
            continue
        if not channel.is_informative:
            raise InputError(
                f"channel {channel.number} is called '{channel.name}', which does not tell the series to take; "
                f"use --map {channel.number}=description:PATTERN (or path, modality, series)"
            )
        if names.count(channel.name.lower()) > 1:
            raise InputError(
                f"several channels are called '{channel.name}'; tell them apart with "
                f"--map {channel.number}=description:PATTERN"
            )
