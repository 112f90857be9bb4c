"""Tests of the tables from end to end on small real data; the numbers are meaningless."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNet as MonaiUNet

import pretraining.cli
from nnunet_anatomix import cli
from nnunet_anatomix.commands.reproduce import DataFlags, NetworkFlags, ScaleFlags, reproduce
from nnunet_anatomix.datasets.registration_pairs import read_pair_settings
from nnunet_anatomix.reproduce import run as running
from nnunet_anatomix.reproduce.tables import TABLES
from tests.nnunet_anatomix.reproduce.small_data import brain_pairs

NEEDS_ANTS = pytest.mark.skipif(importlib.util.find_spec("ants") is None, reason="antspyx is not installed")


@pytest.fixture(scope="module")
def data(data_root, tmp_path_factory) -> Path:
    """Return ``nnUNet_raw`` with 3 training and 2 test cases of the hippocampus, and brains."""
    raw = tmp_path_factory.mktemp("raw")
    source, target = data_root / "nnUNet_raw" / "Dataset901_Hippocampus", raw / "Dataset901_Hippocampus"
    for kind in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (target / kind).mkdir(parents=True)
        for path in sorted((source / kind).iterdir())[: 3 if kind.endswith("Tr") else 2]:
            shutil.copyfile(path, target / kind / path.name)
    shutil.copyfile(source / "dataset.json", target / "dataset.json")
    brain_pairs(raw / "brains", data_root / "registration" / "mni_multimodal")
    return raw


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Return one folder for all tables, which then share common steps."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture
def in_this_process(monkeypatch) -> list[Sequence[str]]:
    """Run commands in this process, which saves imports, and record them."""
    asked: list[Sequence[str]] = []

    def call(words, environment, log_file, **_) -> None:
        asked.append(words)
        monkeypatch.setattr(sys, "argv", list(words))
        {"nnunet-anatomix": cli.main, "anatomix-pretrain": pretraining.cli.main}[words[0]]()

    monkeypatch.setattr(running, "run_child", call)
    return asked


def cells(out: Path, name: str) -> list[dict[str, str]]:
    with (out / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def complete(out: Path, name: str) -> list[dict[str, str]]:
    """Return the cells with a number, after checking that all others have a reason."""
    found = cells(out, name)
    assert found and all(bool(cell["ours"]) != bool(cell["why_not"]) for cell in found)
    return [cell for cell in found if cell["ours"]]


def run_table(name: str, data: Path, out: Path, **flags: object) -> None:
    """Run the command with flags given by name."""
    groups = {
        group: kind(**{field.name: flags.pop(field.name) for field in fields(kind) if field.name in flags})
        for group, kind in (("sources", DataFlags), ("networks", NetworkFlags), ("scale", ScaleFlags))
    }
    reproduce(name, data, out, **groups, **flags)


def another_program(folder: Path) -> Path:
    """Write a JSON file that describes a program, which moves nothing."""
    code = (
        "import sys, nibabel, numpy; shape = nibabel.load(sys.argv[1]).shape; "
        "nibabel.save(nibabel.Nifti1Image(numpy.zeros((*shape, 3), 'f4'), numpy.eye(4)), sys.argv[3] + '/u.nii.gz')"
    )
    command = ["{python}", "-c", code, "{fixed}", "{moving}", "{out}"]
    spec = {"name": "Does Nothing", "command": command, "transform": "u.nii.gz", "kind": "voxels"}
    (folder / "nothing.json").write_text(json.dumps(spec))
    return folder / "nothing.json"


def theirs(folder: Path) -> Path:
    """Write a JSON file that describes another network."""
    kwargs = {"spatial_dims": 3, "in_channels": 1, "out_channels": 4, "channels": [4, 8], "strides": [2]}
    torch.manual_seed(0)
    torch.save(MonaiUNet(**kwargs).state_dict(), folder / "net.pth")
    spec = {"network": "monai.networks.nets.UNet", "kwargs": kwargs, "state": "net.pth", "multiple": 8}
    (folder / "primgeoseg.json").write_text(json.dumps(spec))
    return folder / "primgeoseg.json"


def test_the_pairs_are_as_prepare_writes_them(data):
    assert read_pair_settings(data / "brains").name == "Brains"


def test_table_4_and_what_of_it_is_not_done_twice(data, out, in_this_process):
    how = {"pairs": ("brains",), "miniature": True, "device": "cpu"}
    run_table("table4", data, out, **how)
    found = {(cell["row"], cell["column"]): cell["ours"] for cell in complete(out, "table4")}
    assert len(found) == 4 and all("±" in number for number in found.values())
    assert len(in_this_process) == 1
    run_table("table4", data, out, **how)
    assert len(in_this_process) == 1


def test_figure_5_by_convexadam_with_the_settings_that_were_tuned(data, out, in_this_process):
    rows = ("ConvexAdam-Ours", "ConvexAdam")
    run_table("figure5", data, out, pairs=("brains",), rows=rows, miniature=True, device="cpu")
    assert len(complete(out, "figure5")) == 6
    tuned = [words for words in in_this_process if words[1] == "register"]
    assert len(tuned) == 2 and all(words[words.index("--grid-spacing") + 1] == "4" for words in tuned), (
        "as the search found"
    )


def test_other_programs_are_rows_of_figure_5(data, out, tmp_path, in_this_process):
    how = {"pairs": ("brains",), "programs": (str(another_program(tmp_path)),), "miniature": True, "device": "cpu"}
    run_table("figure5", data, out, rows=("Does Nothing",), **how)
    assert len([cell for cell in complete(out, "figure5") if cell["row"] == "Does Nothing"]) == 3
    run_table("figure5", data, out, rows=("Does Nothing",), **how)
    assert len(in_this_process) == 1, "the second call finds it done"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@NEEDS_ANTS
def test_registration_by_ants(data, out, tmp_path, monkeypatch, in_this_process):
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    how = {"pairs": ("brains",), "miniature": True, "device": "cpu"}
    run_table("figure5", data, out, **how)
    assert {cell["row"] for cell in complete(out, "figure5")} == {
        "ConvexAdam-Ours",
        "ConvexAdam",
        "ANTs-Ours",
        "ANTs-MI",
    }
    before = len(in_this_process)
    run_table("table2", data, out, networks=(theirs(tmp_path),), **how)
    assert {cell["row"] for cell in complete(out, "table2")} == {"MutualInfo", "Ours", "PrimGeoSeg"}
    assert len(in_this_process) == before + 1, "the other rows are those of Fig. 5"


@pytest.mark.slow
def test_pretraining_variants(data, out, tmp_path, monkeypatch, in_this_process):
    bank = tmp_path / "shapes.bank"
    monkeypatch.setattr(
        sys, "argv", ["anatomix-pretrain", "templates", "--source", "procedural:12", "--out", str(bank)]
    )
    pretraining.cli.main()
    how = {"pairs": ("brains",), "templates": bank, "miniature": True, "device": "cpu"}
    run_table("figure7", data, out, **how)
    pictures = complete(out, "figure7")
    assert len(pictures) == 4 * 2 and all((out / cell["ours"]).is_file() for cell in pictures), (
        "Brains need a bank of brains"
    )
    assert any("--brains BANK" in cell["why_not"] for cell in cells(out, "figure7"))


@pytest.fixture
def by_nnunet(monkeypatch) -> None:
    for name, value in (("nnUNet_def_n_proc", "1"), ("nnUNet_n_proc_DA", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(__file__).resolve().parents[3] / "nnunet_anatomix" / "trainers"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_segmentation_by_nnunet(data, out, weights_file, by_nnunet, tmp_path):
    how = {"datasets": ("901",), "miniature": True, "device": "cpu"}
    run_table("table1", data, out, shots=1, transfer=weights_file, **how)
    rows = {cell["row"]: cell["ours"] for cell in complete(out, "table1")}
    assert set(rows) == {"Rand Init", "Transfer Learning", "Ours", "Full supervision"}
    steps = len(list((out / "steps").iterdir()))
    run_table("table6", data, out, shots=1, networks=(theirs(tmp_path),), **how)
    assert {cell["row"] for cell in complete(out, "table6")} == {"Rand Init", "Ours", "PrimGeoSeg"}
    assert len(list((out / "steps").iterdir())) == steps + 1, "the other rows are those of Table 1"
    run_table("figure8", data, out, budgets=(1, 3), **how)
    assert len(complete(out, "figure8")) == 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_pretraining_downstream_and_networks_of_our_architecture(
    data, out, weights_file, by_nnunet, tmp_path, monkeypatch
):
    monkeypatch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    bank = tmp_path / "shapes.bank"
    monkeypatch.setattr(
        sys, "argv", ["anatomix-pretrain", "templates", "--source", "procedural:12", "--out", str(bank)]
    )
    pretraining.cli.main()
    how = {"datasets": ("901",), "pairs": ("brains",), "shots": 1, "miniature": True, "device": "cpu"}
    run_table("table3", data, out, rows=("loss: denoising",), templates=bank, **how)
    assert {cell["column"] for cell in complete(out, "table3")} == {"Brains", "Brains folds", "Hippocampus"}
    named = tmp_path / "primgeoseg_unet.safetensors"
    shutil.copyfile(weights_file, named)
    if importlib.util.find_spec("ants") is not None:
        run_table("table5", data, out, rows=("PrimGeoSeg UNet",), networks=(named,), **how)
        assert {cell["column"] for cell in complete(out, "table5")} == {"Hippocampus", "Brains"}


def test_every_table_has_its_miniature():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in text for name in TABLES)
