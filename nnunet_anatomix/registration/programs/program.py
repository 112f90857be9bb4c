"""Another registration program, described by a JSON file: its command line and its transform."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pretraining.common.checks import check_count
from pretraining.common.config import read_json
from pretraining.common.errors import InputError

SHIPPED = Path(__file__).parent
"""Folder of the shipped descriptions."""
FILES = ("fixed", "moving", "fixed_mask", "moving_mask", "out")
"""Placeholders that stand for files and the output folder of one pair."""
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_VARIABLE = "env."

Kind = Literal["itk", "ras_mm", "voxels"]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that registers two images on one grid.

    Attributes:
        command: Program and arguments. ``{fixed}``, ``{moving}``, ``{fixed_mask}`` and
            ``{moving_mask}`` stand for NIfTI files, ``{out}`` for an empty folder, ``{python}`` for
            this Python, ``{here}`` for the folder of the JSON file, and ``{env.NAME}`` for an
            environment variable.
        transform: File in the output folder that holds the transform, from points of the fixed to
            points of the moving image.
        kind: Meaning of the file: ``itk``, any transform that ITK reads, or a displacement field in
            mm (LPS); ``ras_mm``, a displacement field in mm (RAS); ``voxels``, a displacement field
            in voxels along the axes of the fixed image. Fields of the last two kinds are on the
            grid of the fixed image, with components last.
        size: Number of voxels along each axis, if the program accepts only one. Default: those of
            the working grid.
        name: Name of the method in tables. Default: name of the file.
    """

    command: tuple[str, ...]
    transform: str
    kind: Kind = "itk"
    size: tuple[int, int, int] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.command:
            raise InputError("'command' is empty, expected a program and its arguments")
        if not self.transform or not _stays_inside(self.transform):
            raise InputError(f"'transform' is '{self.transform}', expected the name of a file in the output folder")
        if self.size is not None:
            check_count(size=self.size)
        for name in self._placeholders():
            if name not in (*FILES, "python", "here") and not name.startswith(_VARIABLE):
                raise InputError(
                    f"'command' contains {{{name}}}, expected one of {', '.join(f'{{{one}}}' for one in FILES)}, "
                    "{python}, {here} and {env.NAME}"
                )
        if missing := [name for name in ("fixed", "moving", "out") if name not in self._placeholders()]:
            raise InputError(f"'command' lacks {{{missing[0]}}}, expected {{fixed}}, {{moving}} and {{out}}; add it")

    def words(self, files: dict[str, str]) -> list[str]:
        """Return the command line for the files of one pair.

        Args:
            files: Placeholder → text; others are kept.

        Returns:
            Program and arguments.
        """
        return [_PLACEHOLDER.sub(lambda found: files.get(found[1], found[0]), word) for word in self.command]

    def _placeholders(self) -> list[str]:
        return [name for word in self.command for name in _PLACEHOLDER.findall(word)]


def read_program(name: str | Path) -> Program:
    """Read the description of a program.

    Args:
        name: JSON file with the attributes of :class:`Program`, or the name of a shipped one.

    Returns:
        The program, with its name, and with all placeholders replaced that do not depend on a pair.

    Raises:
        InputError: If there is no such file, it is invalid, or an environment variable is not set.
    """
    path = Path(name)
    if not path.is_file() and path.name == str(name):
        path = SHIPPED / f"{name}.json"
    if not path.is_file():
        raise InputError(
            f"no program {name}, expected a JSON file or one of {', '.join(shipped_programs())}; correct the path"
        )
    program = read_json(Program, path)
    values = {"python": sys.executable, "here": str(path.parent.resolve())}
    for variable in program._placeholders():
        if variable.startswith(_VARIABLE):
            value = os.environ.get(variable.removeprefix(_VARIABLE), "")
            if not value:
                raise InputError(
                    f"{path}: environment variable {variable.removeprefix(_VARIABLE)} is not set, expected a value "
                    "for the command line; set it"
                )
            values[variable] = value
    return replace(program, command=tuple(program.words(values)), name=program.name or path.stem)


def shipped_programs() -> list[str]:
    """Return the names of the shipped descriptions."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def _stays_inside(file: str) -> bool:
    return not Path(file).is_absolute() and ".." not in Path(file).parts
