"""Mark of flags that few users need: ``--help-all`` shows them, ``--help`` does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

Kind = TypeVar("Kind")
_is_hiding = False

if TYPE_CHECKING:
    Rare = Annotated[Kind, "rare"]
else:

    class Rare:
        """Annotation of a rare flag, or of a whole group of flags: ``side: Rare[int] = 128``.

        Notes:
            Modules of commands postpone annotations, so that they are evaluated each time that the
            flags are collected. Inside :func:`hide_rare_flags`, the annotation suppresses the flag.
        """

        def __class_getitem__(cls, kind: Any) -> Any:
            return tyro.conf.Suppress[kind] if _is_hiding else kind


@contextmanager
def hide_rare_flags() -> Iterator[None]:
    """Hide rare flags from help texts that are made inside."""
    global _is_hiding
    _is_hiding = True
    try:
        yield
    finally:
        _is_hiding = False
