"""What the whole suite shares: where real data and golden files live, and one thread for repeatable sums."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, and inherited by every command that a test starts: small volumes gain nothing from threads, and
# threads that outnumber the cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

_REPOSITORY = Path(__file__).resolve().parent.parent


def _shared_folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        reason = f"{folder} is missing; set {variable} to the folder with real test data"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real volumes (read-only): ``templates``, ``nnUNet_raw``, ``registration``, ``dicom``."""
    return _shared_folder("ANATOMIX_TEST_DATA", _REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the published network and loss."""
    return _shared_folder("ANATOMIX_TEST_GOLDEN", _REPOSITORY.parent / "shared" / "golden")
