"""Settings of a command as a file: ``--config FILE`` reads them, and a run writes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError
from pretraining.common.versions import VERSION

SETTINGS_FILE = "command.json"
"""Name of the file in a folder of results."""
_RESULTS = "out"
"""Name of the parameter that says where results go. Commands of the clinic call it otherwise: their
settings are not written, since folders and queries may name patients.
"""


def read_settings(path: Path, program: str, name: str) -> dict[str, Any]:
    """Read the flags of a command from a file.

    Args:
        path: JSON or YAML file: flags by name without dashes, or what :func:`write_settings` wrote.
        program: Name of the program.
        name: Name of the command.

    Returns:
        Values by flag; those of nested configurations by dotted names.

    Raises:
        InputError: If there is no such file, it holds no mapping, or it is of another command.
    """
    import yaml

    if not path.is_file():
        raise InputError(f"--config: no file {path}; expected JSON or YAML with the flags of {name}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config: {path} is neither JSON nor YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise InputError(f"--config: {path} holds a {type(content).__name__}; expected flags by name")
    if "command" in content and "settings" in content:
        if content["command"] != f"{program} {name}":
            raise InputError(f"--config: {path} is of {content['command']}; expected settings of {program} {name}")
        content = content["settings"]
    return dict(_flatten(content))


def words_of(settings: Mapping[str, Any], spellings: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Turn settings into words of a command line.

    Args:
        settings: Values by flag. None and empty lists stand for the default.
        spellings: Every spelling of every flag of the command.

    Returns:
        The words of flags, and the words of each setting that is no flag, by name.
    """
    words: list[str] = []
    others: dict[str, list[str]] = {}
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        before, _, last = flag.removeprefix("--").rpartition(".")
        opposite = f"--{before}{'.' if before else ''}no-{last}"
        values = [str(part) for part in (value if isinstance(value, list) else [value])]
        if value is None or value == []:
            continue
        if flag not in spellings:
            others[name.replace("-", "_")] = values
        elif not isinstance(value, bool):
            words += [flag, *values]
        elif value or opposite in spellings:
            words.append(flag if value else opposite)
    return words, others


def write_settings(program: str, name: str, values: Sequence[tuple[str, Any]], returned: Any) -> None:
    """Write the settings of a run beside its results, if it has results.

    Args:
        program: Name of the program.
        name: Name of the command.
        values: Flags and their values; the fields of the value of a flag "" are flags.
        returned: List of paths that the command returned, beside which the settings go. Else they
            go to its output folder, or beside its output file.

    Raises:
        NotWritten: If the disk is full, or the file on disk is incomplete.
    """
    settings: dict[str, Any] = {}
    for flag, value in values:
        is_config = dataclasses.is_dataclass(value) and not isinstance(value, type)
        plain = dataclasses.asdict(value) if is_config else value
        settings |= plain if flag == "" else {flag: plain}
    content = {"command": f"{program} {name}", "version": VERSION, "settings": settings}
    paths = returned if isinstance(returned, list) else [settings[_RESULTS]] if settings.get(_RESULTS) else []
    for path in paths:
        file = path / SETTINGS_FILE if path.is_dir() else path.with_name(f"{path.name}.{SETTINGS_FILE}")
        if path.exists():
            write_text(file, json.dumps(content, indent=2, default=str) + "\n")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
