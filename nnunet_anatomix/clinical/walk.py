"""All files of a tree, without leaving it: links are not followed, and nothing but regular files is opened."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file; its path is relative to the tree, with forward slashes."""

    file: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Stray:
    """A file or folder that is part of no scan, and why."""

    file: str
    reason: str


def walk(root: Path) -> tuple[list[FoundFile], list[Stray]]:
    """Look through a tree.

    Args:
        root: Absolute and resolved.

    Returns:
        Regular files, and what is not looked into: symbolic links (and Windows' junctions),
            sockets, pipes, devices, folders that may not be
        opened, names that are not valid UTF-8. Both sorted by path.
    """
    files: list[FoundFile] = []
    strays: list[Stray] = []
    waiting = [(str(root), "")]
    while waiting:
        folder, below = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            strays.append(Stray(below, f"folder cannot be opened ({error_reason(error)})"))
            continue
        for entry in entries:
            relative = f"{below}{entry.name}"
            if not _is_utf8(entry.name):
                strays.append(Stray(relative, "name is not valid UTF-8; rename it"))
                continue
            try:
                about = entry.stat(follow_symlinks=False)
                # A junction is no symbolic link, but is resolved like one.
                linked = entry.is_symlink() or (
                    stat.S_ISDIR(about.st_mode) and os.path.realpath(entry.path) != entry.path
                )
            except OSError as error:
                strays.append(Stray(relative, f"cannot be opened ({error_reason(error)})"))
                continue
            if linked:
                strays.append(Stray(relative, "link, not followed: what it points to counts only where it lies itself"))
            elif stat.S_ISDIR(about.st_mode):
                waiting.append((entry.path, f"{relative}/"))
            elif stat.S_ISREG(about.st_mode):
                files.append(FoundFile(relative, about.st_size, about.st_mtime_ns))
            else:
                strays.append(Stray(relative, "not a regular file"))
    return sorted(files, key=lambda found: found.file), sorted(strays, key=lambda stray: stray.file)


def error_reason(error: OSError) -> str:
    """What went wrong, without the path."""
    return (error.strerror or type(error).__name__).lower()


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
