"""Choice among the volumes of one series: by a channel's name, by ``--map``, or not at all.

A volume is never taken only because it comes first: echoes, b-values and time points look alike to
the rules, so that the user has to ask for one of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from nnunet_anatomix.clinical.intake.channel_words import tokenize
from nnunet_anatomix.clinical.intake.series import Series

TOO_FEW = "only "
"""Start of the reason why a volume of few slices does not fit a channel."""
_SYNONYMS = {
    "water": r"w|wat|water|wateronly",
    "fat": r"f|fat|fatonly",
    "inphase": r"in|ip|inphase|in_phase",
    "outphase": r"out|op|opp|oop|opposed|outphase|opposedphase|out_phase|opp_phase",
    "magnitude": r"m|mag|magnitude",
    "phase": r"p|pha|phase|phasemap",
    "real": r"r|real",
    "imaginary": r"i|imag|imaginary",
}
"""Word for an image type → pattern of the ways to write it."""
_DIXON = {"water", "fat", "inphase", "outphase"}
_SUPPRESSED = r"sat|saturated|saturation|sup|supp|suppressed|suppression|excitation"
"""Words by which fat and water name a preparation, not an image."""
_NUMBERED = {"echo_time": "te", "b_value": "b", "inversion_time": "ti", "flip_angle": "flip"}
"""Field of a volume's name → start of the word that asks for its value, such as ``b1000``."""
_COUNTED = {"temporal_position": "dynamic", "acquisition": "acquisition", "volume": "volume"}
_TIMES = ("temporal_position", "trigger_time", "acquisition", "volume")
"""Fields of a volume's name that tell its time."""
_ASKED = r"(te|b|ti|flip|dynamic|acquisition|volume)\d+"


def volume_words(series: Series) -> set[str]:
    """Return the words that ask for a volume, such as ``b1000``, ``te80`` or ``water``."""
    words = set()
    for label in series.volume.split(" ") if series.volume else ():
        field, _, value = label.partition("=")
        start = _NUMBERED.get(field) or _COUNTED.get(field)
        if start and re.fullmatch(r"[0-9.]+", value):
            words.add(f"{start}{round(float(value))}")
        elif field in ("image_type", "part"):
            words |= {word for part in value.split("\\") for word in _image_words(part)}
        elif field == "plane":
            words.add(value)
    return words


def differ_in_time(series: Series) -> bool:
    """Return whether a volume may be of another time than the other volumes of its series."""
    return any(label.partition("=")[0] in _TIMES for label in series.volume.split(" "))


def asked_words(name: str) -> set[str]:
    """Return the words of a channel's name that can ask for one volume of a series."""
    words = tokenize(name.replace("-phase", "phase"))
    asked = {word for word in words if re.fullmatch(_ASKED, word)}
    if "ct" in words:  # such as "CT portal venous phase"
        return asked
    images = {known for word in words if len(word) > 1 for known in _image_words(word)}
    return asked | (images - _DIXON if any(re.fullmatch(_SUPPRESSED, word) for word in words) else images)


def asks_for_dixon(series: Series, name: str) -> bool:
    """Return whether a channel's name asks for the Dixon image that a series says it is."""
    asked = asked_words(name) & _DIXON
    return bool(asked) and asked <= _dixon_words(series)


def _dixon_words(series: Series) -> set[str]:
    stated = {word for value in series.image_type[2:] for word in _image_words(value)}
    return (stated or {word for token in tokenize(series.description) for word in _image_words(token)}) & _DIXON


def find_volume_mismatch(series: Series, name: str) -> str:
    """Return why a volume is not the one that a channel's name asks for, or an empty text."""
    if series.kind == "dicom" and (missing := (asked_words(name) & _DIXON) - _dixon_words(series)):
        return f"nothing says that it is the image that the channel asks for ({' '.join(sorted(missing))})"
    if not series.volume or not (missing := asked_words(name) - _DIXON - volume_words(series)):
        return ""
    return f"another volume of the series ({series.volume}); the channel asks for {' '.join(sorted(missing))}"


def find_ambiguous(
    numbers: Sequence[int], reasons: Mapping[int, str], found: Mapping[int, Series], channel: int, *, asked: bool
) -> dict[int, str]:
    """Return the volumes that fit a channel, although others of their series might as well.

    Args:
        numbers: Numbers of all series of a case.
        reasons: Number → why the series does not fit the channel; empty if it does.
        found: Number → series.
        channel: Number of the channel.
        asked: True if the channel's name or ``--map`` asks for one volume; then the others do not
            matter.

    Returns:
        Number → reason, with the ``--map`` that would take the volume.
    """
    volumes: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        if found[number].volume:
            volumes[found[number].series_uid].append(number)
    ambiguous: dict[int, str] = {}
    for members in volumes.values():
        fitting = [number for number in members if not reasons[number]]
        if not asked:
            fitting = [number for number in fitting if not found[number].is_scout]
            ambiguous |= {
                number: "scout within a series" for number in members if not reasons[number] and number not in fitting
            }
        rivals = [
            number
            for number in members
            if not found[number].is_scout
            and (not reasons[number] or found[number].problem or reasons[number].startswith(TOO_FEW))
        ]
        if len(fitting if asked else rivals) > 1:
            for number in fitting:
                ambiguous[number] = (
                    f"one of {len(fitting if asked else rivals)} volumes of its series; "
                    f'to take it, use --map "{channel}=volume:{found[number].volume}"'
                )
    return ambiguous


def _image_words(text: str) -> set[str]:
    return {word for word, pattern in _SYNONYMS.items() if re.fullmatch(pattern, text.lower())}
