"""``--map``: what a user says about channels goes before the rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.series import Series
from pretraining.common.errors import InputError

FIELDS = ("description", "path", "modality", "series")
_EXPECTED = "expected CHANNEL=FIELD:PATTERN such as 0=description:*T1* or 1=series:1.2.3, FIELD one of " + ", ".join(
    FIELDS
)


@dataclass(frozen=True)
class ChannelMap:
    """For one channel: each field's patterns; a series must match one of each field's. Its own UID is enough, and rules the case."""

    patterns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def series_uids(self) -> tuple[str, ...]:
        return self.patterns.get("series", ())

    @property
    def has_patterns(self) -> bool:
        return bool(self.patterns.keys() - {"series"})

    def names(self, series: Series) -> bool:
        return bool(series.series_uid) and series.series_uid in self.series_uids

    def matches(self, series: Series) -> bool:
        """Whether all fields but the UID match, letter case aside; ``*`` and ``?`` are wildcards, and ``*`` crosses folders."""
        texts = {"description": (series.description,), "path": series.files, "modality": (series.modality,)}
        return all(
            any(fnmatchcase(text.lower(), pattern.lower()) for text in texts[name] for pattern in patterns)
            for name, patterns in self.patterns.items()
            if name != "series"
        )


def parse_maps(maps: Iterable[str], channels: Sequence[Channel]) -> dict[int, ChannelMap]:
    """Read ``--map`` values.

    Args:
        maps: ``CHANNEL=FIELD:PATTERN``; CHANNEL is a number or a name of ``channel_names``.
        channels: Of the model.

    Raises:
        InputError: For other spellings, channels that the model lacks, or a UID that is none.
    """
    found: dict[int, dict[str, tuple[str, ...]]] = {}
    for text in maps:
        match = re.fullmatch(r"([^=]+)=(\w+):(.+)", text.strip())
        if not match or match[2].lower() not in FIELDS:
            raise InputError(f"--map '{text}': {_EXPECTED}")
        who, name, pattern = match[1].strip(), match[2].lower(), match[3].strip()
        numbers = [channel.number for channel in channels if who in (str(channel.number), channel.name)]
        if len(numbers) != 1:
            have = ", ".join(f"{channel.number} ({channel.name})" for channel in channels)
            raise InputError(f"--map '{text}': the model's channels are {have}; found '{who}'")
        if name == "series" and not re.fullmatch(r"[0-9.]{1,64}", pattern):
            raise InputError(f"--map '{text}': expected a SeriesInstanceUID, digits and dots")
        fields = found.setdefault(numbers[0], {})
        fields[name] = (*fields.get(name, ()), pattern)
    return {number: ChannelMap(patterns) for number, patterns in found.items()}


def check_uids(maps: Mapping[int, ChannelMap], series: Sequence[Series]) -> None:
    """Refuse UIDs that no series has.

    Raises:
        InputError: Naming the UID.
    """
    there = {each.series_uid for each in series}
    for number, channel_map in maps.items():
        if missing := [uid for uid in channel_map.series_uids if uid not in there]:
            raise InputError(
                f"--map {number}=series:{missing[0]}: no series with this UID is in SRC; intake.csv lists those that are"
            )


def check_channels(maps: Mapping[int, ChannelMap], channels: Sequence[Channel]) -> None:
    """Refuse channels that neither their names nor maps describe.

    Raises:
        InputError: Naming the channel.
    """
    names = [channel.name.lower() for channel in channels]
    for channel in channels:
        if channel.number in maps:
            continue
        if not channel.says_something:
            raise InputError(
                f"channel {channel.number} is called '{channel.name}' in the model, which does not say what to look for; "
                f"say it with --map {channel.number}=description:PATTERN (or path, modality, series)"
            )
        if names.count(channel.name.lower()) > 1:
            raise InputError(
                f"several channels are called '{channel.name}'; say which is which with --map {channel.number}=description:PATTERN"
            )
