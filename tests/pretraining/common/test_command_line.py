"""Every command runs, and bad input gives one line, a non-zero exit and no partial output."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import load_weights, save_weights
from pretraining.cli import main
from pretraining.common.command_line import run_commands
from pretraining.common.config import to_dict
from pretraining.common.errors import InputError
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning.objectives.choice import ObjectiveConfig
from pretraining.learning.objectives.contrastive import ContrastiveConfig
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.train_config import TrainConfig
from tests.pretraining.probing.aligned_folders import brain_folder


@pytest.fixture
def run(monkeypatch, caplog):
    """Run the command in this process and return its log."""

    def command(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["anatomix-pretrain", *map(str, arguments)])
        caplog.clear()
        with caplog.at_level(logging.INFO):
            main()
        return caplog.text

    return command


@pytest.fixture
def fails(run, capsys):
    """Run the command and return the line of its error."""

    def command(*arguments: object, code: int = 1) -> str:
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        line = str(caught.value)
        # Python prints a code that is a text, and exits with 1.
        assert caught.value.code == (line if code == 1 else code)
        if code == 2:
            assert capsys.readouterr().err.splitlines()[-1] == line
        assert line.startswith("anatomix-pretrain: ") and "\n" not in line
        return line

    return command


@pytest.fixture
def preset(tmp_path):
    """Write a configuration that trains in a second."""
    config = TrainConfig(
        steps=2,
        validate_every=2,
        validation_pairs=1,
        save_every=1,
        backbone=UNetConfig(width=2, poolings=2),
        objective=ObjectiveConfig(contrastive=ContrastiveConfig(positions=16), projection=ProjectionConfig(width=8)),
        engine=EngineConfig(side=16),
    )
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(to_dict(config)))
    return path


def write_mask(path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(path))


def test_from_masks_to_weights_and_back(run, tmp_path, preset):
    """Run templates, preview, train, export and import, each on the output of the previous one."""
    masks = tmp_path / "subject" / "segmentations"
    for number, organ in enumerate(("liver", "spleen")):
        mask = np.zeros((20, 24, 16), np.uint8)
        mask[4 : 12 + number, 5:15, 3:9] = 1
        write_mask(masks / f"{organ}.nii.gz", mask)
    bank, weights = tmp_path / "templates.bank", tmp_path / "weights.safetensors"
    assert "2 " in run("templates", "--source", tmp_path / "subject", "--out", bank, "--spacing", 1.0)
    run("preview", "--templates", bank, "--out", tmp_path / "sheet.png", "--preset", preset, "--count", 1)
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    start = (
        "train",
        "--templates",
        bank,
        "--out",
        tmp_path / "run",
        "--preset",
        preset,
        "--device",
        "cpu",
        "--workers",
        0,
    )
    assert "step 2" in run(*start)
    assert "step 2" in run(
        "train", "--templates", bank, "--out", tmp_path / "run", "--resume", "--device", "cpu", "--workers", 0
    )
    run("export", tmp_path / "run", "--out", weights)
    assert load_weights(weights).card["templates"]["count"] == 2
    run("export", tmp_path / "run", "--out", tmp_path / "published.pth", "--format", "published")
    run("import", tmp_path / "published.pth", "--out", tmp_path / "again.safetensors")
    assert load_weights(tmp_path / "again.safetensors").sha256 == load_weights(weights).sha256


def test_judging_prints_a_table_and_writes_it(run, fails, tmp_path, small_judged_samples):
    weights_file, config = tmp_path / "tiny.safetensors", UNetConfig(width=2, poolings=2)
    save_weights(weights_file, UNet(config).state_dict(), config, {"name": "tiny"})
    brain_folder(tmp_path / "brain", modalities=("t2",))
    said = run(
        "judge",
        weights_file,
        "--data",
        tmp_path / "brain",
        "--json",
        tmp_path / "scores.json",
        "--device",
        "cpu",
        "--voxels",
        100,
    )
    assert "T1 → T2" in said and all(name in said for name in ("random init", "MIND-SSC", weights_file.stem))
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["sha256"] == load_weights(weights_file).sha256 and len(written["scores"]) == 9
    assert "name the folder" in fails("judge", weights_file, "--data", tmp_path / "nothing")


def test_a_sweep_goes_on_where_it_was(run, fails, tmp_path, preset, small_judged_samples):
    brain_folder(tmp_path / "brain")
    (tmp_path / "variants.json").write_text(json.dumps({"base": {}, "faster": {"optimizer": {"rate": 1e-3}}}))
    start = (
        "sweep",
        "--variants",
        tmp_path / "variants.json",
        "--out",
        tmp_path / "sweep",
        "--data",
        tmp_path / "brain",
    )
    start = (*start, "--preset", preset, "--minutes", 0.005, "--device", "cpu")
    run(*start)
    before = (tmp_path / "sweep" / "table.md").read_text()
    assert "| base " in before and "| faster " in before
    (tmp_path / "sweep" / "base" / "result.json").unlink()
    run(*start)
    assert (tmp_path / "sweep" / "table.md").read_text().splitlines()[0] == before.splitlines()[0]
    assert "expected --minutes above 0" in fails(*start[:-3], 0)


def test_flags_override_the_preset(run, tmp_path, preset):
    run(
        "train",
        "--out",
        tmp_path / "run",
        "--preset",
        preset,
        "--device",
        "cpu",
        "--workers",
        0,
        "--steps",
        1,
        "--engine.side",
        32,
    )
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["steps"], written["engine"]["side"], written["objective"]["contrastive"]["positions"]) == (
        1,
        32,
        16,
    )


def test_no_run_is_overwritten(run, fails, tmp_path, preset):
    start = ("train", "--out", tmp_path / "run", "--preset", preset, "--device", "cpu", "--workers", 0)
    run(*start)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    assert "add --resume" in fails(*start)
    assert "positions: 16 -> 17" in fails(*start, "--resume", "--objective.contrastive.positions", 17)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "--out", "run", "--preset", "papre"), "no preset 'papre'"),
        (("train", "--out", "run", "--device", "cuda:77"), "no device 'cuda:77' here"),
        (("train", "--out", "run", "--device", "tpu"), "no device 'tpu' here"),
        (("train", "--out", "run", "--optimizer.rate", "nan"), "optimizer.rate must be a finite number, got nan"),
        (
            ("train", "--out", "run", "--optimizer.weight-decay", "inf"),
            "optimizer.weight_decay must be a finite number, got inf",
        ),
        (
            ("train", "--out", "run", "--optimizer.stair-factors", "1", "nan"),
            "optimizer.stair_factors[1] must be a finite number, got nan",
        ),
        (("train", "--out", "run", "--minutes", "nan"), "--minutes must be a finite number, got nan"),
        (
            ("templates", "--source", "procedural:2", "--out", "t.bank", "--spacing", "inf"),
            "--spacing must be a finite number, got inf",
        ),
        (("train", "--out", "run", "--templates", "nowhere.bank"), "no template bank at nowhere.bank"),
        (("train", "--out", "run", "--init-from", "nowhere.safetensors"), "no weights file at nowhere.safetensors"),
        (("export", "nowhere", "--out", "w.safetensors"), "no checkpoint at nowhere"),
        (("import", "nowhere.pth", "--out", "w.safetensors"), "no weights file at nowhere.pth"),
        (("templates", "--source", "empty", "--out", "t.bank"), "no label files under empty"),
        (("templates", "--source", "nan.nii.gz", "--out", "t.bank"), "NaN"),
        (("templates", "--source", "4d.nii.gz", "--out", "t.bank"), "three dimensions"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(fails, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_mask(tmp_path / "nan.nii.gz", np.full((4, 4, 4), np.nan, np.float32))
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8))] * 2), "4d.nii.gz")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert named in fails(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "--out", "run", "--sidee", "40"), "no flag --sidee; nearest is --engine.side ("),
        (("train", "--out", "run", "--engine.sid", "40"), "no flag --engine.sid; nearest is --engine.side ("),
        (("train", "--Zx", "40"), "no flag --Zx ("),
        (("templates", "--sidee", "40"), "no flag --sidee ("),
        (("train", "--step=40"), "no flag --step; nearest is --steps ("),
        (("train", "-q", "-v"), "--verbose and --quiet exclude each other"),
        (("train", "--log-file"), "--log-file: expected one argument"),
        (("train",), "--out"),
        (("trane",), "no command 'trane'; nearest is train ("),
        (("train", "--out", "run", "--steps", "many"), "--steps"),
        (("train", "--out", "run", "--engine.side", "40"), "multiple of 16"),
    ],
)
def test_wrong_usage_has_a_code_of_its_own(fails, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    line = fails(*arguments, code=2)
    assert named in line and "(see anatomix-pretrain" in line and line.endswith(" --help)")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["program"], ["program", "--version"]], ids=["bare", "version"])
def test_a_bare_command_prints_help_and_fails_and_version_succeeds(monkeypatch, capsys, arguments):
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as caught:
        run_commands("program", lambda: {"All": {"one": print, "other": print}}, "All it does.")
    out, err = capsys.readouterr()
    if arguments[1:]:
        assert caught.value.code == 0 and out.startswith("program ") and not err
    else:
        assert caught.value.code == 2 and not out
        assert err.startswith("usage: program") and "All it does." in err and "--version" in err and "other" in err


def ends(monkeypatch, error: Exception) -> str:
    """Return the last line of a command that raises this error."""

    def broken() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["program", "broken"])
    with pytest.raises(SystemExit) as caught:
        run_commands("program", lambda: {"All": {"broken": broken, "other": broken}}, "")
    assert "\n" not in caught.value.code
    return caught.value.code


@pytest.mark.parametrize(
    "error", [KeyError("background"), RuntimeError("a\nb"), AssertionError(), TypeError("2 arguments"), IndexError("x")]
)
def test_what_nobody_foresaw_is_one_line_that_says_so(monkeypatch, error):
    monkeypatch.delenv("ANATOMIX_DEBUG", raising=False)
    line = ends(monkeypatch, error)
    assert line.startswith(f"program: unexpected {type(error).__name__}: ") and "ANATOMIX_DEBUG=1" in line
    monkeypatch.setenv("ANATOMIX_DEBUG", "1")
    with pytest.raises(type(error)):
        run_commands(
            "program", lambda: {"All": {"broken": lambda: (_ for _ in ()).throw(error)} | {"other": print}}, ""
        )


def test_a_value_error_of_a_library_is_not_taken_for_a_message_to_users(monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", "broken"])
    with pytest.raises(SystemExit, match="unexpected UnicodeDecodeError"):
        run_commands("program", lambda: {"All": {"broken": lambda: json.loads(b"\xff"), "other": print}}, "")
    assert ends(monkeypatch, InputError("expected a, found b")) == "program: expected a, found b"
    assert (
        ends(monkeypatch, PermissionError(13, "Permission denied", "file"))
        == "program: [Errno 13] Permission denied: 'file'"
    )
    assert "out of memory" in ends(monkeypatch, MemoryError())


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path, lines):
    program = (
        "import sys\nfrom pretraining.common.command_line import run_commands\n"
        f"def talk():\n    for number in range({lines}):\n        sys.stdout.write('a line of some length\\n')\n"
        "sys.argv = ['program', 'talk']\nrun_commands('program', lambda: {'All': {'talk': talk, 'other': talk}}, '')\n"
    )
    read, write = os.pipe()
    os.close(read)  # the reader closes the pipe before the first line
    with os.fdopen(write, "wb") as pipe:
        ended = subprocess.run([sys.executable, "-c", program], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 141 and ended.stderr == ""


def test_a_vit_checkpoint_is_refused_by_name(fails, tmp_path):
    vit = {"eva.pos_embed": torch.zeros(1, 9, 6), "down_projection.proj.weight": torch.zeros(6, 1, 1, 1, 1)}
    torch.save(vit, tmp_path / "vit.pth")
    assert "ViT, which computes features only" in fails(
        "import", tmp_path / "vit.pth", "--out", tmp_path / "w.safetensors"
    )
    assert not (tmp_path / "w.safetensors").exists()
