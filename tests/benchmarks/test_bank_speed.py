"""Time and memory of a bank of 45,000 masks, as the full dataset has, relative to one of 450."""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pretraining.bank.bank_file import write_bank
from pretraining.bank.bank_index import TemplateEntry
from pretraining.bank.packing import PackedMask, pack
from pretraining.bank.template_bank import TemplateBank
from pretraining.engine.synthesis import EngineConfig, synthesize_pair
from pretraining.templates.procedural import procedural_bank

log = logging.getLogger(__name__)

LARGE, SMALL = 45_000, 450
MASKS = 90
ORGANS = 40
"""Of each subject."""


@pytest.fixture(scope="module")
def banks(tmp_path_factory) -> Iterator[dict[int, Path]]:
    """Banks by their number of masks: organ-like shapes of 28 to 104 voxels a side."""
    shapes = procedural_bank(MASKS)
    masks = [pack(shapes.mask(i).numpy()) for i in range(MASKS)]
    folder = tmp_path_factory.mktemp("banks")
    paths = {count: folder / f"{count}.bank" for count in (LARGE, SMALL)}
    for count, path in paths.items():
        write_bank(path, simulated(masks, count), spacing_mm=1.5)
    yield paths
    for path in paths.values():  # half a gigabyte, which pytest would keep for three runs
        path.unlink()


def simulated(masks: list[PackedMask], count: int) -> Iterator[tuple[TemplateEntry, np.ndarray]]:
    for i in range(count):
        mask = masks[i % MASKS]
        names = {
            "source": "totalsegmentator",
            "subject": f"s{i // ORGANS:04d}",
            "organ": f"organ_{i % ORGANS}",
            "licence": "CC BY 4.0",
        }
        yield TemplateEntry.of(mask, **names), mask.bits


def seconds(work: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median over the rounds."""
    taken = []
    for _ in range(rounds):
        start = clock()
        work()
        taken.append(clock() - start)
    return statistics.median(taken)


@pytest.mark.slow
def test_opening_reads_no_masks(banks):
    large, small = (seconds(lambda count=count: TemplateBank.open(banks[count]), 9) for count in (LARGE, SMALL))
    everything = seconds(TemplateBank.open(banks[LARGE]).verify, 1)
    log.warning("opening %d: %.5f s, %d: %.5f s; reading all: %.3f s", LARGE, large, SMALL, small, everything)
    assert large < 0.2 * everything


def test_reading_a_mask_does_not_depend_on_how_many_there_are(banks):
    opened = {count: TemplateBank.open(path) for count, path in banks.items()}
    picks = {count: np.random.default_rng(0).integers(0, count, 2000).tolist() for count in opened}

    def read(count: int) -> None:
        for i in picks[count]:
            opened[count].packed(i)
            opened[count].shape(i)

    for count in opened:
        read(count)
    taken = {count: seconds(lambda count=count: read(count), 9, time.process_time) for count in opened}
    log.warning("reading %d masks: %s s", len(picks[LARGE]), taken)
    assert taken[LARGE] < 3 * taken[SMALL]


@pytest.mark.slow
def test_a_samples_time_does_not_grow_with_the_bank(banks):
    opened = {count: TemplateBank.open(path) for count, path in banks.items()}
    config = EngineConfig(side=64)
    taken = dict.fromkeys(opened, 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # In turns, so that a busy machine slows both; what an index draws besides templates is the
        # same in both.
        for index in range(16):
            for count, bank in opened.items():
                start = time.process_time()
                synthesize_pair(bank, config, seed=0, index=index)
                taken[count] += (time.process_time() - start) * (index > 0)
    finally:
        torch.set_num_threads(threads)
    log.warning("15 samples of side 64: %s s", taken)
    assert taken[LARGE] < 1.3 * taken[SMALL]


MEASURE = """
import json, pickle, sys
import numpy as np
from pretraining.bank.template_bank import TemplateBank

def status():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}

start = status()
bank = TemplateBank.open(sys.argv[1])
opened = status()
picks = np.random.default_rng(0).integers(0, len(bank), 1000).tolist()
for i in picks:
    bank.mask(i)
read = status()
bank.subjects(), pickle.loads(pickle.dumps(bank)).sha256, bank.verify()
print(json.dumps({"start": start, "opened": opened, "read": read, "all": status()}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_stays_small_even_if_every_mask_is_read(banks):
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, str(banks[LARGE])], check=True, capture_output=True, text=True
    ).stdout
    memory = json.loads(output)
    log.warning("MB of a process with a bank of %.0f MB: %s", banks[LARGE].stat().st_size / 2**20, memory)
    start = memory["start"]["VmRSS"]
    assert memory["opened"]["VmRSS"] - start < 50 and memory["read"]["VmRSS"] - start < 150
    # The peak of all: the masks themselves are far more.
    assert memory["all"]["VmHWM"] - start < 300 < banks[LARGE].stat().st_size / 2**20
