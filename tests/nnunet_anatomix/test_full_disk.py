"""Commands on a full disk: a one-line error, a non-zero exit code, earlier files unchanged."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.cli import main
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import save_weights

REPOSITORY = Path(__file__).resolve().parents[2]


def scan(path: Path, seed: int) -> Path:
    """Write a scan of noise, which does not compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.random.default_rng(seed).normal(100, 40, (36, 32, 34)).astype(np.float32))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs ``nnunet-anatomix`` in this process."""

    def command(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["nnunet-anatomix", *map(str, arguments)])
        main()

    return command


@pytest.fixture
def commands(tmp_path, small_disk):
    """Return the arguments of each command, with outputs on the small disk."""
    config = UNetConfig(width=2, poolings=2, out_channels=3)
    torch.manual_seed(0)
    save_weights(tmp_path / "weights.safetensors", UNet(config).state_dict(), config, {"name": "small"})
    fixed, moving = scan(tmp_path / "fixed.nii.gz", 0), scan(tmp_path / "moving.nii.gz", 1)
    scan(tmp_path / "clinic" / "patient" / "ct.nii.gz", 2)
    (tmp_path / "model").mkdir()
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "model" / "dataset.json").write_text(json.dumps(described))
    out = small_disk.folder
    return {
        "features": (
            "features",
            fixed,
            "--out",
            out / "f.nii.gz",
            "--weights",
            tmp_path / "weights.safetensors",
            "--no-picture",
        ),
        "register": (
            "register",
            "--fixed",
            fixed,
            "--moving",
            moving,
            "--features",
            "none",
            "--init",
            "none",
            "--out",
            out / "pair",
        ),
        "intake": ("intake", tmp_path / "clinic", out / "taken", "-m", tmp_path / "model"),
    }


@pytest.mark.parametrize("command", ["features", "register", "intake"])
@pytest.mark.parametrize("free_kib", [60, 92])
def test_a_full_disk_gives_one_line_and_keeps_earlier_results(
    small_disk, commands, run, capfd, command, free_kib, tmp_path
):
    run(*commands[command])
    before = small_disk.files()
    assert before
    if command == "intake":  # a second intake converts only changed scans
        scan(tmp_path / "clinic" / "patient" / "ct.nii.gz", 7)
    small_disk.leave(free_kib * 1024)
    with pytest.raises(SystemExit) as stopped:
        run(*commands[command])
    line = stopped.value.code
    assert isinstance(line, str) and "\n" not in line and "free on the disk" in line
    images = {
        name: content
        for name, content in small_disk.files().items()
        if name.endswith((".nii.gz", ".h5", ".tfm", "registration.json"))
    }
    assert images == {name: content for name, content in before.items() if name in images} and len(images) >= 1
    for name in set(small_disk.files()) - set(before):  # only the record of the run that failed
        assert "/manifests/" in name
        assert json.loads(small_disk.files()[name])["outcome"] not in ("running", "completed")


def test_only_one_module_writes_images_and_transforms():
    for package in ("pretraining", "nnunet_anatomix"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if path == REPOSITORY / "pretraining" / "imaging" / "writing.py":
                continue
            called = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert not called & {"WriteImage", "WriteTransform", "ImageFileWriter"}, path
