"""Fixtures: a small bank on disk, and a finished store of its samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pretraining.bank.bank_file import write_bank
from pretraining.bank.template_bank import TemplateBank
from pretraining.engine.synthesis import EngineConfig
from pretraining.samples.synthesize import Request, synthesize
from pretraining.templates.procedural import procedural_bank

COUNT = 10


@pytest.fixture(scope="session")
def bank_file(tmp_path_factory) -> Path:
    """Write a bank of eight procedural shapes."""
    path = tmp_path_factory.mktemp("bank") / "shapes.bank"
    bank = procedural_bank(8)
    write_bank(path, ((bank.entry(i), bank.packed(i).numpy()) for i in range(len(bank))), spacing_mm=bank.spacing_mm)
    return path


@pytest.fixture
def request_of(bank_file):
    """Return a function that makes a request for a few samples of side 16."""

    def make(**changes: object) -> Request:
        return Request(
            **{"bank": TemplateBank.open(bank_file), "engine": EngineConfig(side=16), "count": COUNT, "seed": 3}
            | changes
        )

    return make


@pytest.fixture(scope="session")
def pristine_store(bank_file, tmp_path_factory) -> Path:
    """Synthesize ten samples, four per shard; tests must not change them."""
    path = tmp_path_factory.mktemp("store") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretraining.samples.store.MANY_FILES", 2)
        patch.setattr("pretraining.samples.store.MAX_SHARD_SAMPLES", 4)
        request = Request(bank=TemplateBank.open(bank_file), engine=EngineConfig(side=16), count=COUNT, seed=3)
        assert synthesize(request, path) == 0
    return path


@pytest.fixture
def store_folder(pristine_store, tmp_path) -> Path:
    """Copy the store for tests that change it."""
    return Path(shutil.copytree(pristine_store, tmp_path / "copy"))
