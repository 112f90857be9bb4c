"""Help texts of commands: one screen each, without the flags that few users need."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import tyro

from pretraining.common.rare_flags import hide_rare_flags

Command = Callable[..., Any]
Groups = Mapping[str, Mapping[str, Command]]
"""Commands by name, in groups by title."""

COMMON_FLAGS = (
    ("--config FILE", "JSON or YAML with flags, as command.json; other flags take precedence."),
    ("-v, --verbose; -q, --quiet", "Show the output of nnU-Net too, or only warnings and errors."),
    ("--log-file FILE", "Append everything to a file, with the output of nnU-Net."),
    ("-h, --help; --help-all", "Show this text; include flags that few users need."),
)
"""Flags that every command takes."""
_WIDTH, _COLUMN = 100, 30
"""Greatest width of a text, and of its column of flags, characters."""
_WIDEST = "128"
"""Greatest width at which tyro writes one column of groups."""


@dataclass(frozen=True, kw_only=True)
class _Flag:
    invocation: str
    spellings: tuple[str, ...]
    text: str = ""
    is_positional: bool

    @property
    def is_needed(self) -> bool:
        return self.text.endswith("(required)")


@dataclass(kw_only=True)
class _Section:
    title: str
    note: str = ""
    flags: list[_Flag] = field(default_factory=list)


def by_name(groups: Groups) -> dict[str, Command]:
    """Return all commands by name, without their groups.

    Args:
        groups: Commands.
    """
    return {name: command for group in groups.values() for name, command in group.items()}


def list_commands(program: str, groups: Groups, description: str) -> str:
    """Return the help of a program: its commands in groups, one line each.

    Args:
        program: Name of the program.
        groups: Commands.
        description: One sentence.
    """
    longest, width = max(map(len, by_name(groups))), _columns()
    lines = [f"usage: {program} COMMAND [flags]", "", *textwrap.wrap(description, width)]
    for title, commands in groups.items():
        lines += ["", f"{title}:"]
        for name, command in commands.items():
            summary = " ".join((command.__doc__ or "").strip().split("\n\n")[0].split())
            lines.append(f"  {name:{longest}}  {textwrap.shorten(summary, width - longest - 4, placeholder=' …')}")
    return "\n".join([*lines, "", f"{program} COMMAND --help shows the flags of a command."]) + "\n"


def describe_command(program: str, name: str, command: Command, *, with_rare: bool) -> str:
    """Return the help of a command.

    Args:
        program: Name of the program.
        name: Name of the command.
        command: Function whose annotations and docstring define the flags.
        with_rare: Include flags that few users need.
    """
    description, sections = _read_help(command, with_rare)
    flags = [flag for section in sections for flag in section.flags]
    needed = [flag.invocation.split(", ")[-1] for flag in flags if flag.is_needed or flag.is_positional]
    width = _columns()
    usage = " ".join([f"usage: {program} {name}", *needed, "[flags]"])
    lines = [*textwrap.wrap(usage, width, subsequent_indent="  ", break_on_hyphens=False), ""]
    for paragraph in description:
        lines += [*textwrap.wrap(paragraph, width), ""]
    for section in sections:
        if section.flags:
            lines.append(f"{section.title}: {section.note}".rstrip())
            lines += [*_two_columns([(flag.invocation, flag.text) for flag in section.flags], width), ""]
    lines += ["flags of every command:", *_two_columns(COMMON_FLAGS, width)]
    return "\n".join(lines) + "\n"


def flags_of(command: Command) -> list[str]:
    """List every spelling of every flag of a command, with the flags that every command takes.

    Args:
        command: Function whose annotations define the flags.
    """
    _, sections = _read_help(command, True)
    own = [word for section in sections for flag in section.flags for word in flag.spellings]
    return own + [word for invocation, _ in COMMON_FLAGS for word in _spellings(invocation)]


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word that is most similar, or None if none is.

    Args:
        word: Unknown word.
        known: Words to choose from.
    """
    bare = {one.rpartition(".")[2]: one for one in reversed(known)}  # flags of nested settings by their last part
    bare |= {one.lstrip("-"): one for one in known}
    found = difflib.get_close_matches(word.lstrip("-").replace("_", "-"), bare, n=1, cutoff=0.65)
    return bare[found[0]] if found else None


def _spellings(invocation: str) -> tuple[str, ...]:
    return tuple(re.findall(r"(?<!\S)--?[A-Za-z][\w.-]*", invocation))


def _columns() -> int:
    return min(_WIDTH, max(40, shutil.get_terminal_size().columns))


def _two_columns(entries: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    for invocation, text in entries:
        first, *more = textwrap.wrap(text, width - _COLUMN, break_on_hyphens=False) or [""]
        if len(invocation) + 4 > _COLUMN:
            yield f"  {invocation}"
            more = [first, *more] if first else more
        else:
            yield f"  {invocation:{_COLUMN - 2}}{first}".rstrip()
        yield from (f"{' ' * _COLUMN}{line}" for line in more)


def _read_help(command: Command, with_rare: bool) -> tuple[list[str], list[_Section]]:
    """Read the paragraphs of a description, and the flags in sections, from the text of tyro."""
    written = io.StringIO()
    with (
        contextlib.nullcontext() if with_rare else hide_rare_flags(),
        mock.patch.dict(os.environ, {"COLUMNS": _WIDEST}),
        contextlib.redirect_stdout(written),
        contextlib.suppress(SystemExit),
    ):
        tyro.cli(command, prog="", args=["--help"], config=(tyro.conf.PositionalMetavarFromFieldName,))
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    first = next(number for number, line in enumerate(lines) if re.fullmatch(r" -{3,}", line)) - 1
    paragraphs = "\n".join(lines[1:first]).split("\n\n")
    sections: list[_Section] = []
    for line, following in zip(lines[first:], [*lines[first + 1 :], ""], strict=True):
        if re.fullmatch(r" -{3,}", following):
            sections.append(_Section(title=line.strip().replace("options", "flags")))
        elif re.fullmatch(r"  -{3,}", line):  # the lines above were a note, and no flag
            sections[-1].note = " ".join(f"{flag.invocation} {flag.text}".strip() for flag in sections[-1].flags)
            sections[-1].flags.clear()
        elif line.startswith("   "):
            last = sections[-1].flags[-1]
            sections[-1].flags[-1] = replace(last, text=f"{last.text} {line.strip()}".strip())
        elif line.startswith("  "):
            invocation, _, text = line.strip().partition("  ")
            is_positional = sections[-1].title.startswith("positional")
            sections[-1].flags.append(
                _Flag(
                    invocation=invocation,
                    spellings=() if is_positional else _spellings(invocation),
                    text=text.strip(),
                    is_positional=is_positional,
                )
            )
    for section in sections:
        section.flags = [_shorten(flag) for flag in section.flags if not flag.invocation.startswith("-h, ")]
    return [" ".join(text.split()) for text in paragraphs if text.strip()], sections


def _shorten(flag: _Flag) -> _Flag:
    """Leave out what says nothing: None, values of aliases, and the opposite of what is off."""
    invocation = flag.invocation.replace("{None}|", "").replace("{None,", "{")
    invocation = re.sub(r"\[(\S+) \[\1 \.\.\.\]\]", r"\1 ...", re.sub(r"\{(\w+(?: \w+)+)\}", r"\1", invocation))
    text = flag.text.replace(" (default: None)", "").replace(" (default: )", "")
    if flag.is_positional:
        text = text.removesuffix(" (required)")
    if text.endswith("(default: False)"):
        text = text.removesuffix("(default: False)").rstrip()
        invocation = ", ".join(part for part in invocation.split(", ") if not re.match(r"--([\w.-]+\.)?no-", part))
    if aliases := re.fullmatch(r"(-[\w.-]+) (\S.*), (--[\w.-]+) \2", invocation):
        invocation = f"{aliases[1]}, {aliases[3]} {aliases[2]}"
    return replace(flag, invocation=invocation, text=text)
