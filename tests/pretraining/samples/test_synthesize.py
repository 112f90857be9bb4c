"""Test that a store's bytes depend neither on the processes nor on interruptions."""

from __future__ import annotations

import errno
import json
import logging
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pretraining.backbone.unet import UNetConfig
from pretraining.bank.template_bank import TemplateBank
from pretraining.cli import main
from pretraining.common.config import to_dict
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.processes import ProcessLost
from pretraining.engine.synthesis import EngineConfig, synthesize_stored
from pretraining.learning.checkpoint import load_checkpoint
from pretraining.learning.objectives.choice import ObjectiveConfig
from pretraining.learning.objectives.contrastive import ContrastiveConfig
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.train_config import TrainConfig
from pretraining.samples import synthesize as module
from pretraining.samples.shards import pack
from pretraining.samples.store import begin_store, finish_store, open_store
from pretraining.samples.synthesize import Request, Share, synthesize
from tests.process_server import PythonProcess


@pytest.fixture(params=[1, 3], ids=lambda samples: f"{samples} a shard")
def shard_samples(request, monkeypatch):
    """Use both layouts: one sample per file, and several per file."""
    monkeypatch.setattr(module, "samples_per_shard", lambda count: request.param)
    return request.param


def made_directly(request) -> tuple[str, ...]:
    """Return the checksums that every store of this request must have."""
    return tuple(
        pack(synthesize_stored(request.bank, request.engine, seed=request.seed, index=index)).checksum
        for index in range(request.count)
    )


def stored(folder: Path) -> tuple[str, ...]:
    """Return checksums of the samples read back, not those of the manifest."""
    store = open_store(folder)
    return tuple(pack(store.read(index)).checksum for index in range(len(store)))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(bank: Path, out: Path, *flags: object) -> list[str]:
    # The paper's engine has the defaults, as `request_of` does.
    preset = [] if "--preset" in flags else ["--preset", "paper"]
    options = ["--templates", bank, "--out", out, "--seed", 3, *preset, "--engine.side", 48, *flags]
    return [sys.executable, "-m", "pretraining", "synthesize", *map(str, options)]


def stopped_after(shards: int, how: int, arguments: list[str], out: Path) -> tuple[int, str]:
    """Run a command, signal it after some further shards; return its exit code and messages."""
    wanted = shards + len(list(out.glob("shard-*.b2nd")))
    process = PythonProcess(arguments)
    while process.poll() is None and len(list(out.glob("shard-*.b2nd"))) < wanted:
        time.sleep(0.001)
    process.send_signal(how)
    return process.wait(), process.communicate()[1]


def test_16_samples_are_the_same_however_they_were_made(request_of, bank_file, tmp_path, shard_samples):
    request = request_of(count=16, engine=EngineConfig(side=48))
    expected = made_directly(request)
    assert synthesize(request, tmp_path / "one worker") == 0
    assert synthesize(request, tmp_path / "two workers", workers=2) == 0
    assert synthesize(request, tmp_path / "two shares", share=Share(1, 2)) > 0
    assert synthesize(request, tmp_path / "two shares", share=Share(0, 2), workers=2) == 0
    killed = tmp_path / "killed"
    begin_store(killed, request.config())  # so that the command keeps to this layout
    code, _ = stopped_after(2, signal.SIGKILL, command(bank_file, killed, "--count", 16, "--workers", 1), killed)
    assert code == -signal.SIGKILL and not (killed / "manifest.jsonl").exists()
    assert synthesize(request, killed) == 0
    for folder in ("one worker", "two workers", "two shares", "killed"):
        assert stored(tmp_path / folder) == expected, folder
        assert files(tmp_path / folder).items() >= files(tmp_path / "one worker").items(), folder


MANY = 60
"""Samples, so many that a busy machine notices in time that some are there."""


@pytest.fixture(scope="module")
def many(bank_file) -> tuple[str, ...]:
    """Return the checksums of ``MANY`` samples."""
    request = Request(bank=TemplateBank.open(bank_file), engine=EngineConfig(side=48), count=MANY, seed=3)
    return made_directly(request)


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        pytest.param(signal.SIGKILL, 2, marks=pytest.mark.slow),  # as in the test above
        (signal.SIGTERM, 2),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_command_goes_on_where_it_was(request_of, bank_file, tmp_path, many, how, workers):
    arguments = command(bank_file, tmp_path / "store", "--count", MANY, "--workers", workers)
    code, said = stopped_after(10, how, arguments, tmp_path / "store")
    there = files(tmp_path / "store")
    assert 10 <= len([name for name in there if name.startswith("shard-")]) < MANY
    if how == signal.SIGKILL:
        assert code == -how
    else:
        assert code == 128 + how and "stopped; run the same command again to resume" in said and "Traceback" not in said
        assert not any(name.startswith(".") for name in there)
    request = request_of(count=MANY, engine=EngineConfig(side=48))
    assert synthesize(request, tmp_path / "store") == 0
    assert all(
        files(tmp_path / "store")[name] == content for name, content in there.items() if name.startswith("shard-")
    )
    assert stored(tmp_path / "store") == many


def test_two_commands_at_once_do_each_other_no_harm(request_of, bank_file, tmp_path):
    arguments = command(bank_file, tmp_path / "store", "--count", 16, "--workers", 1)
    both = [PythonProcess(arguments) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert stored(tmp_path / "store") == made_directly(request_of(count=16, engine=EngineConfig(side=48)))


def test_what_is_there_is_not_made_again(request_of, store_folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in store_folder.glob("shard-*.b2nd")}
    monkeypatch.setattr(module, "synthesize_stored", None)
    assert synthesize(request_of(), store_folder) == 0
    assert {path: path.stat().st_mtime_ns for path in store_folder.glob("shard-*.b2nd")} == before


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "foreign", "of another place", "manifest"])
def test_starting_again_repairs(request_of, store_folder, damage):
    before = files(store_folder)
    first, second, _ = sorted(store_folder.glob("shard-*.b2nd"))
    if damage == "manifest":
        (store_folder / "manifest.jsonl").write_text("[]")
    elif damage == "gone":
        first.unlink()
    else:
        content = first.read_bytes()
        first.write_bytes(
            {"cut": content[:-9], "empty": b"", "foreign": b"x" * 999, "of another place": second.read_bytes()}[damage]
        )
    with pytest.raises(InputError):
        stored(store_folder)
    assert synthesize(request_of(), store_folder) == 0
    assert files(store_folder) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_byte_is_found_and_repaired_by_verify(request_of, store_folder, caplog, workers):
    before = files(store_folder)
    path = store_folder / "shard-0000004.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert synthesize(request_of(), store_folder) == 0, "whole files count without it"
    with pytest.raises(InputError, match="with --verify"):
        stored(store_folder)
    assert synthesize(request_of(), store_folder, workers=workers, verify=True) == 0
    assert "shard-0000004.b2nd is damaged" in caplog.text
    assert files(store_folder) == before


def test_a_store_grows(request_of, store_folder):
    before = files(store_folder)
    assert synthesize(request_of(count=15), store_folder) == 0
    assert stored(store_folder) == made_directly(request_of(count=15))
    assert files(store_folder)["shard-0000000.b2nd"] == before["shard-0000000.b2nd"]
    with pytest.raises(InputError, match="count: 15 -> 10"):
        synthesize(request_of(), store_folder)


def test_another_request_is_refused_by_name_and_changes_nothing(request_of, store_folder, bank_file):
    before = files(store_folder)
    other_bank = type(request_of().bank).from_masks([request_of().bank.mask(0)], ["a"], source="s", spacing_mm=1.0)
    for changes, named in (
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"engine": EngineConfig(side=32)}, "engine.side: 16 -> 32"),
        ({"bank": other_bank}, r"templates\.count: 8 -> 1.*templates\.sha256: "),
    ):
        with pytest.raises(InputError, match=named):
            synthesize(request_of(**changes), store_folder)
    assert files(store_folder) == before


def test_a_share_of_nothing_is_no_error(request_of, tmp_path):
    assert synthesize(request_of(count=2), tmp_path / "store", share=Share(3, 4)) == 2
    assert synthesize(request_of(count=2), tmp_path / "store") == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_can_be_gone_on_from(request_of, tmp_path, monkeypatch, workers):
    write, written = Path.write_bytes, []

    def until_full(path: Path, content: bytes) -> int:
        if path.suffix != ".b2nd":
            return write(path, content)
        written.append(path)
        if len(written) < 4:
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", until_full)
        with pytest.raises(
            CommandFailed, match=r"no space left on the disk of .*store: make room, then run the same command again"
        ):
            synthesize(request_of(count=16), tmp_path / "store", workers=workers)
    assert sorted(files(tmp_path / "store")) == ["config.json", *(f"shard-{i:07d}.b2nd" for i in range(3))]
    assert synthesize(request_of(count=16), tmp_path / "store") == 0
    assert stored(tmp_path / "store") == made_directly(request_of(count=16))


def test_too_small_a_disk_is_refused_before_anything_is_written(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr("pretraining.samples.estimate.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match="10 samples need about"):
        synthesize(request_of(), tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_ended_from_outside_is_one_line(request_of, tmp_path, monkeypatch):
    real = module.imap_unordered

    def lost(function, items, *, processes):
        yield from real(function, items, processes=1)
        if processes > 1:
            raise ProcessLost([8, 9])

    monkeypatch.setattr(module, "imap_unordered", lost)
    monkeypatch.setattr(module, "finish_store", None)
    with pytest.raises(CommandFailed, match=r"memory ran out, at one of samples \[8, 9\].*fewer --workers"):
        synthesize(request_of(), tmp_path / "store", workers=2)
    assert len(list((tmp_path / "store").glob("shard-*.b2nd"))) == 10


def test_sigterm_means_what_it_meant_before(request_of, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    synthesize(request_of(count=1), tmp_path / "store")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def run(monkeypatch, caplog, tmp_path):
    """Return a function that runs a command in this process and returns its log."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["anatomix-pretrain", *map(str, arguments)])
        caplog.clear()
        with caplog.at_level(logging.INFO):
            main()
        return caplog.text

    return call


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--shard", "4/4"), "expected --shard i/K with 0 <= i < K, for example 0/4, got 4/4"),
        (("--shard", "x"), "expected --shard i/K with 0 <= i < K, for example 0/4, got 'x'"),
        (("--shard", "-1/4"), "--shard"),
        (("--shard", "0/0"), "got 0/0"),
        (("--count", "0"), "expected --count of at least 1, got 0"),
        (("--engine.side", "40"), "multiple of 16"),
        (("--seed", "-1"), "expected --seed from 0 to 2**63 - 1, got -1"),
        (("--seed", str(2**63)), "expected --seed from 0 to 2**63 - 1"),
        (("--workers", "-1"), "expected --workers of at least 0, got -1"),
        (("--out", "a file"), "a file is a file; expected a folder"),
        (("--out", "."), "holds other files"),
        (("--templates", "nowhere.bank"), "no template bank at nowhere.bank"),
        (("--templates", "a file"), "a file is not a template bank"),
        (("--preset", "papre"), "no preset 'papre'"),
        (("--shards", "2"), "--shards needs --executor slurm"),
        (("--executor", "slurm", "--shard", "0/2"), "--shard needs --executor local"),
        (("--executor", "slurm", "--shards", "0"), "expected at least 1"),
        (("--executor", "sge"), "sge"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, bank_file, tmp_path, flags, named):
    (tmp_path / "a file").write_text("x")
    with pytest.raises(SystemExit) as caught:
        run("synthesize", "--templates", bank_file, "--out", "store", "--count", 4, "--engine.side", 16, *flags)
    line = str(caught.value)
    assert isinstance(line, str) and named in line and "\n" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_from_templates_through_a_store_to_a_training(run, bank_file, tmp_path):
    """Use the store's engine without a flag; resuming needs the same store."""
    config = TrainConfig(
        steps=3,
        validation_pairs=2,
        backbone=UNetConfig(width=2, poolings=2),
        objective=ObjectiveConfig(contrastive=ContrastiveConfig(positions=16), projection=ProjectionConfig(width=8)),
        engine=EngineConfig(side=16),
    )
    (tmp_path / "tiny.json").write_text(json.dumps(to_dict(config)))
    said = run(
        "synthesize",
        "--templates",
        bank_file,
        "--out",
        "store",
        "--count",
        6,
        "--preset",
        "tiny.json",
        "--engine.side",
        32,
    )
    assert "6 samples to make, about" in said and "all 6 samples exist" in said
    train = ("train", "--samples", "store", "--out", "run", "--device", "cpu", "--workers", 0)
    assert "step 3" in run(*train, "--preset", "tiny.json")
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert checkpoint.config["engine"]["side"] == 32
    assert checkpoint.templates["count"] == 8 and checkpoint.templates["stored"]["count"] == 6
    run(*train, "--resume")
    run(
        "synthesize",
        "--templates",
        bank_file,
        "--out",
        "store",
        "--count",
        7,
        "--preset",
        "tiny.json",
        "--engine.side",
        32,
    )
    for arguments, named in (
        ((*train, "--resume"), "was started with other templates"),
        ((*train, "--preset", "tiny.json", "--out", "other", "--engine.side", 48), "engine.side: 32 -> 48"),
        (
            (*train, "--preset", "tiny.json", "--out", "other", "--templates", bank_file),
            "--templates or --samples, not both",
        ),
        (("train", "--out", "other", "--samples", "nowhere"), "no store of samples at nowhere"),
    ):
        with pytest.raises(SystemExit, match=named):
            run(*arguments)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("share", [(), ("--shard", "3/7"), ("--executor", "slurm", "--shards", 10**9)])
def test_a_count_beyond_any_disk_is_answered_at_once(run, bank_file, tmp_path, monkeypatch, share):
    monkeypatch.setattr("pretraining.samples.estimate.shutil.disk_usage", lambda _: SimpleNamespace(free=10**11))
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", lambda: 2)
    start = ("synthesize", "--templates", bank_file, "--out", "store", "--engine.side", 16, *share)
    began = time.monotonic()
    with pytest.raises(
        SystemExit, match=r"\d{9,10} samples need about .* GB, the disk of .* has 100\.0 GB free; make room"
    ):
        run(*start, "--count", 10**9)
    with pytest.raises(SystemExit, match="--count of at most 1099511627776, got"):
        run(*start, "--count", 10**30)
    assert time.monotonic() - began < 30 and not (tmp_path / "store").exists()


def test_a_store_begun_with_a_huge_count_is_found_unfinished_at_once(run, request_of, tmp_path):
    begin_store(tmp_path / "store", request_of(count=10**9, engine=EngineConfig(side=32)).config())
    began = time.monotonic()
    with pytest.raises(SystemExit, match="0 of its 62500000 shards are there"):
        run("train", "--samples", "store", "--out", "run", "--preset", "small", "--device", "cpu")
    assert finish_store(tmp_path / "store") == 62500000
    assert time.monotonic() - began < 30
