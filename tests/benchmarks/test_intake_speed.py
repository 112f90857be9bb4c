"""Time to read the headers of 10,000 DICOM files, relative to a plain loop with pydicom."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from tests.nnunet_anatomix.clinical.dicom_series import write_series

log = logging.getLogger(__name__)

SLICES, SERIES = 100, 100


def with_private_tags(dataset: pydicom.Dataset, k: int) -> None:
    """As much of a header as scanners write: some 150 elements, sequences among them."""
    for element in range(100):
        dataset.add_new((0x0019, 0x1001 + element), "LO", f"private value {element}")
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = item.ReferencedSOPInstanceUID = generate_uid()
    dataset.ReferencedImageSequence = [item] * 3


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    """10,000 files in 100 series: one series, copied with other UIDs of the same length."""
    folder = tmp_path_factory.mktemp("dump").resolve()
    uids = {name: f"1.2.826.0.1.3680043.8.498.{10**36}" for name in ("series_uid", "study_uid")}
    paths = write_series(
        folder / "s000",
        np.arange(SLICES * 256, dtype=np.int16).reshape(SLICES, 16, 16),
        change=with_private_tags,
        **uids,
    )
    for number in range(1, SERIES):
        target = folder / f"s{number:03d}"
        target.mkdir()
        for path in paths:
            data = path.read_bytes().replace(
                uids["series_uid"].encode(), f"1.2.826.0.1.3680043.8.498.{10**36 + number}".encode()
            )
            (target / path.name).write_bytes(data)
    yield folder
    shutil.rmtree(folder)


def plain_loop(folder: Path) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for below, _, names in os.walk(folder):
        for name in names:
            path = Path(below) / name
            groups.setdefault(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID, []).append(path)
    return groups


@pytest.mark.slow
def test_headers_are_read_about_as_fast_as_by_a_plain_loop(dump):
    """With all checks of geometry, pixel data and UIDs.

    Folder by folder, each way in turn, since machines' speeds drift.
    """
    plain_loop(dump / "s000")  # both start with pydicom's dictionaries loaded
    taken: dict[str, list[float]] = {"plain loop": [], "intake": []}
    for folder in sorted(dump.iterdir()):
        for name, work in (("plain loop", plain_loop), ("intake", scan_tree)):
            start = time.process_time()
            work(folder)
            taken[name].append(time.process_time() - start)
    log.warning(
        "one process: %s",
        {name: f"{SLICES / statistics.median(seconds):.0f} files/s" for name, seconds in taken.items()},
    )
    ratio = statistics.median(ours / plain for ours, plain in zip(taken["intake"], taken["plain loop"], strict=True))
    log.warning("time of intake per time of the plain loop: %.2f", ratio)
    start = time.perf_counter()
    series, strays = scan_tree(dump, workers=2)
    log.warning(
        "all %d files, two processes: %.0f files/s", SLICES * SERIES, SLICES * SERIES / (time.perf_counter() - start)
    )
    assert len(series) == SERIES and not strays and not any(each.problem for each in series)
    assert ratio < 1.1
