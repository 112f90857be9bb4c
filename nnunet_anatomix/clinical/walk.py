"""Search of a folder tree for regular files. Links are not followed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from nnunet_anatomix.clinical.phrases import describe_error


@dataclass(frozen=True, slots=True)
class FoundFile:
    """Regular file of a tree."""

    file: str
    """Path relative to the tree, with forward slashes."""
    size_bytes: int
    mtime_ns: int
    """Time of the last modification, nanoseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Stray:
    """File or folder that belongs to no scan."""

    file: str
    """Path relative to the tree, with forward slashes."""
    reason: str


def walk(root: Path) -> tuple[list[FoundFile], list[Stray]]:
    """List the regular files of a tree.

    Args:
        root: Absolute, resolved path of the folder.

    Returns:
        Regular files, and entries that are skipped: symbolic links (and Windows junctions),
            sockets, pipes, devices, folders without read permission, and names that are not valid
            UTF-8. Both are sorted by path.
    """
    files: list[FoundFile] = []
    strays: list[Stray] = []
    pending = [(str(root), "")]
    while pending:
        folder, below = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            strays.append(Stray(below, f"folder cannot be opened ({describe_error(error)})"))
            continue
        for entry in entries:
            relative = f"{below}{entry.name}"
            if not _is_utf8(entry.name):
                strays.append(Stray(relative, "name is not valid UTF-8; rename it"))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                # A junction is not a symbolic link, but resolves like one.
                linked = entry.is_symlink() or (
                    stat.S_ISDIR(status.st_mode) and os.path.realpath(entry.path) != entry.path
                )
            except OSError as error:
                strays.append(Stray(relative, f"cannot be opened ({describe_error(error)})"))
                continue
            if linked:
                strays.append(Stray(relative, "link, not followed; copy its target into SRC"))
            elif stat.S_ISDIR(status.st_mode):
                pending.append((entry.path, f"{relative}/"))
            elif stat.S_ISREG(status.st_mode):
                files.append(FoundFile(relative, status.st_size, status.st_mtime_ns))
            else:
                strays.append(Stray(relative, "not a regular file"))
    return sorted(files, key=lambda found: found.file), sorted(strays, key=lambda stray: stray.file)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
