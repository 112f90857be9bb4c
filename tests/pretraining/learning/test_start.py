"""Test that a new training overwrites no folder, and that a damaged run can resume."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pretraining.common.errors import InputError
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning.checkpoint import load_checkpoint
from pretraining.learning.train import train
from pretraining.samples.store import open_store
from pretraining.samples.synthesize import Request, synthesize
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.learning.test_train import TINY, same_state


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(8)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def store_in(folder: Path, bank) -> None:
    synthesize(Request(bank=bank, engine=EngineConfig(side=16), count=3), folder)


@pytest.mark.parametrize("resume", [False, True])
def test_a_store_of_samples_is_not_overwritten_by_a_run(tmp_path, bank, resume):
    store_in(tmp_path, bank)
    before = content(tmp_path)
    with pytest.raises(
        InputError, match=r"config\.json is not a training of this version; name a new or an empty folder"
    ):
        train(tmp_path, TINY, open_store(tmp_path), resume=resume, device="cpu", workers=0)
    assert content(tmp_path) == before


def test_a_run_is_not_overwritten_by_a_store(tmp_path, bank):
    train(tmp_path, TINY, bank, device="cpu", workers=0)
    before = content(tmp_path)
    with pytest.raises(InputError, match=r"config\.json is not a store of this version; name a new or an empty folder"):
        store_in(tmp_path, bank)
    assert content(tmp_path) == before


def test_a_run_without_its_last_checkpoint_is_kept_and_goes_on_from_its_best(tmp_path, bank, caplog):
    train(tmp_path / "whole", TINY, bank, device="cpu", workers=0)
    train(tmp_path / "run", TINY, bank, device="cpu", workers=0)
    (tmp_path / "run" / "checkpoint.pt").unlink()
    before = content(tmp_path / "run")
    with pytest.raises(InputError, match=r"best\.pt.*add --resume to continue from it, or name another folder"):
        train(tmp_path / "run", TINY, bank, device="cpu", workers=0)
    assert content(tmp_path / "run") == before
    best = load_checkpoint(tmp_path / "run" / "best.pt").step
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "run", TINY, bank, resume=True, device="cpu", workers=0)
    assert f"continues from {tmp_path / 'run' / 'best.pt'}, step {best}" in caplog.text
    assert same_state(tmp_path / "whole" / "checkpoint.pt", tmp_path / "run" / "checkpoint.pt")


def test_a_damaged_checkpoint_beside_a_good_one_says_how_to_go_on(tmp_path, bank):
    train(tmp_path, TINY, bank, device="cpu", workers=0)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:5000])
    with pytest.raises(
        InputError, match=r"checkpoint\.pt is damaged.*or delete it, then --resume continues from .*best\.pt"
    ):
        train(tmp_path, TINY, bank, resume=True, device="cpu", workers=0)
    (tmp_path / "checkpoint.pt").unlink()
    assert train(tmp_path, TINY, bank, resume=True, device="cpu", workers=0).step == TINY.steps
