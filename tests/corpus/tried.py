"""Public files of packages, tried by our readers; ``outcomes.json`` keeps what happened.

No file is copied here: the recipe of each is a package of the extra ``dev`` and a path in it.
``python -m tests.corpus.tried`` tries them all and writes ``outcomes.json`` and the table of
``docs/corpus.md``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.intake.single_scan import read_scan
from nnunet_anatomix.registration.formats.reading import read_foreign
from pretraining.common.errors import InputError

HERE = Path(__file__).parent
OUTCOMES, PAGE = HERE / "outcomes.json", HERE.parents[1] / "docs" / "corpus.md"
FOLDERS = {
    "dicom": ("pydicom", "data/test_files", "*.dcm"),
    "image": ("nibabel", "tests/data", "*.nii*"),
    "transform": ("nitransforms", "tests/data", "affine-*.fs.lta"),
}
"""Kind → package, folder in it, and pattern of its files."""


def found(kind: str) -> list[Path]:
    """Return the files of a kind; none if the package or its data is missing."""
    package, folder, pattern = FOLDERS[kind]
    spec = importlib.util.find_spec(package)
    return sorted((Path(spec.origin).parent / folder).glob(pattern)) if spec and spec.origin else []


def try_file(kind: str, path: Path) -> str:
    """Return what our reader makes of a file: numbers, or the reason for which it is refused."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy = Path(shutil.copy(path, folder))
        try:
            if kind == "transform":
                return f"read: {_matrix(read_foreign(copy, 'file', None))}"
            scan = read_scan(copy.parent if kind == "dicom" else copy, "file")
        except InputError as error:
            return "refused: " + re.sub(r"\s+", " ", str(error)).replace(str(copy), "FILE").replace(folder, "FOLDER")
        return f"read: {'×'.join(map(str, scan.GetSize()))}, mean {sitk.GetArrayViewFromImage(scan).mean():.4g}"


def _matrix(transform: sitk.Transform | None) -> str:
    """Return where a transform of points (LPS, mm) moves the origin and the unit vectors."""
    if transform is None:
        return "not recognized"
    points = [transform.TransformPoint(point) for point in ((0.0, 0.0, 0.0), *np.eye(3).tolist())]
    return " ".join(f"{value:.3f}" for point in points for value in point)


def outcomes() -> dict[str, dict[str, str]]:
    """Try every file."""
    return {kind: {path.name: try_file(kind, path) for path in found(kind)} for kind in FOLDERS}


def table(tried: dict[str, dict[str, str]]) -> Iterator[str]:
    """Return the table of the page: how many files had which outcome."""
    yield "| files | outcome | number |"
    yield "|---|---|---|"
    for kind, files in tried.items():
        package, folder, pattern = FOLDERS[kind]
        texts = (
            re.sub(r"^read: .*", "read", outcome.replace("file: FOLDER: ", "").replace("file: FILE: ", ""))
            for outcome in files.values()
        )
        shortened = Counter(re.sub(r"\d[\d.,]*", "…", text.split(";")[0])[:110].replace("|", "/") for text in texts)
        for outcome, number in sorted(shortened.items(), key=lambda one: (-one[1], one[0])):
            yield f"| `{package}/{folder}/{pattern}` | {outcome} | {number} |"


def main() -> None:
    """Write the outcomes and the table."""
    tried = outcomes()
    OUTCOMES.write_text(json.dumps(tried, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    before, mark, _ = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
    PAGE.write_text(before + mark + "\n" + "\n".join(table(tried)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
