"""Who may import whom: packages form floors, and no import points upwards or in a circle."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

PRETRAINING_FLOORS = (
    "common",
    "imaging",
    "backbone",
    "bank",
    "engine",
    "templates",
    "presets",
    "samples",
    "learning",
    "probing",
    "previews",
    "commands",
)
"""From the ground up: a package imports only packages named before it."""

NNUNET_ANATOMIX_FLOORS = (
    "baselines",
    "features",
    "scores",
    "registration",
    "clinical",
    "finetuning",
    "propagation",
    "enlarging",
    "trainers",
    "study",
    "fit",
    "datasets",
    "reproduce",
    "demo",
    "doctor",
    "commands",
)
"""The same for ``nnunet_anatomix``, which stands on ``pretraining``."""

INNER_FLOORS = {
    "nnunet_anatomix.clinical": ("dicom", "intake", "delivery", "network", "running"),
    "pretraining.learning": ("objectives",),
}
"""The same for packages inside a package, which its own modules may use."""


def modules() -> dict[str, Path]:
    found = {}
    for package in ("pretraining", "nnunet_anatomix"):
        for path in (REPOSITORY / package).rglob("*.py"):
            found[".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return modules of ours that a file imports, in functions too, not for annotations alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found |= {full} if full in known else {node.module} & known.keys()
    return found


@cache
def all_imports() -> dict[str, set[str]]:
    """Return module → modules that it imports."""
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def upward(package: str, floors: tuple[str, ...]) -> list[str]:
    """Imports inside a package that point to a floor above, or to none."""
    found = []
    for module, imported in all_imports().items():
        if not module.startswith(f"{package}."):
            continue
        room = module.removeprefix(f"{package}.").split(".")[0]
        if room not in floors:
            continue
        for other in imported:
            target = other.removeprefix(f"{package}.").split(".")[0]
            if (
                not other.startswith(f"{package}.")
                or target == room
                or (package in INNER_FLOORS and target not in floors)
            ):
                continue
            if target not in floors[: floors.index(room)]:
                found.append(f"{module} -> {other}")
    return sorted(found)


def test_no_circle_of_imports():
    try:
        TopologicalSorter(all_imports()).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("package", "floors"),
    [
        ("pretraining", PRETRAINING_FLOORS),
        ("nnunet_anatomix", NNUNET_ANATOMIX_FLOORS),
        *INNER_FLOORS.items(),
    ],
)
def test_no_import_points_upwards(package, floors):
    assert upward(package, floors) == []


@pytest.mark.parametrize(
    ("package", "floors"), [("pretraining", PRETRAINING_FLOORS), ("nnunet_anatomix", NNUNET_ANATOMIX_FLOORS)]
)
def test_every_package_has_a_floor(package, floors):
    folders = {path.name for path in (REPOSITORY / package).iterdir() if (path / "__init__.py").is_file()}
    assert folders <= set(floors)


def test_pretraining_stands_alone():
    assert not [
        f"{module} -> {other}"
        for module, all_of in all_imports().items()
        if module.startswith("pretraining")
        for other in all_of
        if other.startswith("nnunet_anatomix")
    ]


def test_an_upward_import_is_found():
    """The check itself: with the floors turned upside down, many imports point upwards."""
    assert len(upward("pretraining", PRETRAINING_FLOORS[::-1])) > 100
