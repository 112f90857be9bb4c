"""Linear transforms of elastix (``TransformParameters.0.txt``)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.formats.matrices import matrix_of, transform_from_lps
from pretraining.common.errors import InputError

_LINE = re.compile(r"^\s*\(\s*(\w+)\s+(.*?)\s*\)\s*(?://.*)?$")
_KINDS: dict[str, tuple[int, Callable[[], sitk.Transform]]] = {
    "TranslationTransform": (3, lambda: sitk.TranslationTransform(3)),
    "EulerTransform": (6, sitk.Euler3DTransform),
    "SimilarityTransform": (7, sitk.Similarity3DTransform),
    "AffineTransform": (12, lambda: sitk.AffineTransform(3)),
}
"""Transform of elastix -> number of its parameters, and ITK's transform with the same ones."""
_LONGEST_CHAIN = 20


def is_elastix(text: str) -> bool:
    """Return whether a text is a parameter file of a transform of elastix."""
    return "Transform" in _fields(text)


def elastix_transform(path: Path, text: str, where: str) -> sitk.Transform:
    """Convert a parameter file of elastix, and those of its initial transforms, to one of ITK.

    Args:
        path: The file; a missing initial transform is looked for beside it.
        text: Its content.
        where: Role and file, for messages.

    Returns:
        Transform from points of the fixed to points of the moving scan.

    Raises:
        InputError: If a transform is not linear, or its file is incomplete or missing.
    """
    matrix = np.eye(4)
    for fields, told in reversed(_chain(path, text, where)):
        own = _matrix(fields, told)
        how = _text(fields, "HowToCombineTransforms") or "Compose"
        if how not in ("Compose", "Add"):
            raise InputError(f"{told} combines transforms by {how!r}, expected Compose or Add; create it again")
        matrix = own @ matrix if how == "Compose" else own + matrix - np.eye(4)
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError(f"{where} is a singular transform of elastix; create it again")
    return transform_from_lps(matrix)


def _chain(path: Path, text: str, where: str) -> list[tuple[dict[str, str], str]]:
    """Return the content of a file and of its initial transforms, each with its place."""
    found = [(_fields(text), where)]
    while len(found) <= _LONGEST_CHAIN:
        fields = found[-1][0]
        name = _text(fields, "InitialTransformParametersFileName") or _text(fields, "InitialTransformParameterFileName")
        if name in ("", "NoInitialTransform"):
            return found
        candidates = (Path(name), path.parent / name, path.parent / re.split(r"[/\\]", name)[-1])
        initial = next((one for one in candidates if one.is_file()), None)
        if initial is None:
            raise InputError(
                f"{found[-1][1]} begins with the transform {name}, which is missing; put it beside the file"
            )
        found.append((_fields(initial.read_text(encoding="utf-8", errors="replace")), str(initial)))
    raise InputError(f"{where} begins with more than {_LONGEST_CHAIN} initial transforms; write them as one")


def _matrix(fields: dict[str, str], where: str) -> np.ndarray:
    kind = _text(fields, "Transform")
    if kind not in _KINDS:
        raise InputError(
            f"{where} is a {kind or 'file without a transform'} of elastix, expected a linear one "
            f"({', '.join(_KINDS)}); write its field with transformix -def all, and pass deformationField"
        )
    if _text(fields, "UseDirectionCosines").lower() == "false":
        raise InputError(f"{where} ignores the directions of the scans (UseDirectionCosines); run elastix with them")
    count, make = _KINDS[kind]
    numbers, centre = _numbers(fields, "TransformParameters", where), _numbers(fields, "CenterOfRotationPoint", where)
    if len(numbers) != count or len(centre) not in (0, 3):
        raise InputError(
            f"{where} is a {kind} of elastix with {len(numbers)} parameters, expected {count}, in 3D; create it again"
        )
    transform: Any = make()
    if centre and kind != "TranslationTransform":
        transform.SetCenter(centre)
    if kind == "EulerTransform":
        transform.SetComputeZYX(_text(fields, "ComputeZYX").lower() == "true")
    try:
        transform.SetParameters(numbers)
    except RuntimeError:
        raise InputError(f"{where} is a {kind} of elastix with impossible parameters; create it again") from None
    return matrix_of(transform)


def _fields(text: str) -> dict[str, str]:
    return {match.group(1): match.group(2) for line in text.splitlines() if (match := _LINE.match(line))}


def _text(fields: dict[str, str], name: str) -> str:
    return fields.get(name, "").strip('"')


def _numbers(fields: dict[str, str], name: str, where: str) -> list[float]:
    try:
        numbers = [float(word) for word in fields.get(name, "").split()]
        if not np.isfinite(numbers).all():
            raise ValueError
    except ValueError:
        raise InputError(f"{where}: expected finite numbers as {name} of elastix; create it again") from None
    return numbers
