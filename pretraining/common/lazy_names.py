"""Lazy import of a package's public names (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` that imports names of a package on first access.

    Args:
        package: ``__name__`` of the package.
        modules: Public name → module that defines it, relative to the package.

    Returns:
        A function for the package's ``__getattr__``. It imports a module only when one of its
        names is accessed, so that importing the package stays fast.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return find
