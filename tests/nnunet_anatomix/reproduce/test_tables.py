"""Tests of the tables: valid commands with the paper's settings, and the paper's numbers."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import pretraining.cli
from nnunet_anatomix import cli
from nnunet_anatomix.datasets.registration_pairs import PairRow, PairSettings, write_pairs
from nnunet_anatomix.reproduce.run import format_commands, needed_steps
from nnunet_anatomix.reproduce.settings import MINIATURE, Scale, Settings
from nnunet_anatomix.reproduce.tables import TABLES
from pretraining.common.command_line import parse_command
from pretraining.common.errors import InputError


def settings(folder: Path, **changes: object) -> Settings:
    (folder / "raw").mkdir(exist_ok=True)
    return Settings(**({"data": folder / "raw", "out": folder / "out", "device": "cpu"} | changes))


def commands(text: str) -> list[list[str]]:
    """Split a dry run into command lines."""
    return [shlex.split(line) for line in text.splitlines() if not line.startswith(("#", "export "))]


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command line with the program's own parser, without running it."""
    monkeypatch.setattr(sys, "argv", words)
    if words[0] == "nnunet-anatomix":
        parse_command(words[0], cli._commands(), "")
    elif words[0] == "anatomix-pretrain":
        parse_command(words[0], pretraining.cli._commands(), "")
    else:
        from nnunetv2.run import run_training

        monkeypatch.setattr(run_training, "run_training", lambda *arguments, **options: None)
        # It would change the number of threads of the rest of the suite.
        monkeypatch.setattr(run_training.torch, "set_num_threads", lambda threads: None)
        run_training.run_training_entry()


@pytest.mark.parametrize("scale", [Scale(), MINIATURE], ids=["paper", "miniature"])
@pytest.mark.parametrize("name", TABLES)
def test_every_command_line_is_one_that_its_program_takes(tmp_path, monkeypatch, name, scale):
    for file in ("theirs.json", "primgeoseg_unet.safetensors", "bank"):
        (tmp_path / file).touch()
    chosen = settings(
        tmp_path,
        scale=scale,
        networks=(tmp_path / "theirs.json", tmp_path / "primgeoseg_unet.safetensors"),
        starts=("stock",),
        templates=tmp_path / "bank",
        weights="hf://neeldey/anatomix/anatomix.pth@main",
    )
    table = TABLES[name](chosen)
    lines = commands(format_commands(table, chosen))
    assert len(lines) == len(table.steps) > 0 and table.cells
    for words in lines:
        parse(words, monkeypatch)
    assert not chosen.out.exists(), "a dry run writes nothing"


def test_the_parsers_of_this_test_refuse_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        parse(["nnunet-anatomix", "register", "--out", "x", "--solver", "demons"], monkeypatch)
    with pytest.raises(SystemExit):
        parse(["anatomix-pretrain", "train", "--out", "x", "--stepps", "3"], monkeypatch)


def text_of(name: str, chosen: Settings) -> str:
    return format_commands(TABLES[name](chosen), chosen)


def test_the_schedule_is_the_papers(tmp_path):
    chosen = settings(tmp_path)
    table_1, table_3 = (text_of(name, chosen) for name in ("table1", "table3"))
    few_shot = [line for line in table_1.splitlines() if " study " in line and "--shots" in line]
    assert all("--iterations 37500 " in line and "--batch 4 " in line for line in few_shot) and len(few_shot) == 5 * 3
    crops = {}
    for line in few_shot:
        name, side, spacing = re.search(r"Dataset\d+_(\w+) .*--patch (\d+) .*--spacing ([\d. ]+) --", line).groups()
        crops[name] = (side, spacing)
    assert crops == {  # Table 8; slices first
        "MSDHeart": ("96", "1.37 1.25 1.25"),
        "PROMISE12": ("96", "0.625 0.625 0.625"),
        "L2RAbdomenMRI": ("128", "2 2 2"),
        "FeTA": ("128", "0.5 0.5 0.5"),
        "AMOSCT": ("96", "2 1.5 1.5"),
    }
    assert "--patch 160 160 160" in text_of("table6", chosen) and "--batch 3" in text_of("table6", chosen)
    trainings = [line for line in table_3.splitlines() if line.startswith("anatomix-pretrain train")]
    assert len(trainings) == 11 and all("--steps 600000 --engine.side 128" in line for line in trainings)
    figure_5 = text_of("figure5", chosen)
    assert (
        figure_5.count("--overlap 0.8") == 8
        and figure_5.count("--solver ants") == 4
        and "--fixed-clip -450 450" in figure_5
    )
    search = next(line for line in figure_5.splitlines() if " search " in line)
    flags = ("--smoothness", "--grid-spacing", "--reach", "--adam-spacing")
    counts = [len(re.search(rf"{flag} ([\d. ]+) --", search)[1].split()) for flag in flags]
    assert counts == [10, 5, 5, 2]
    assert "--iterations 80 --regularization diffusion --no-unfold" in search, "the descent as published"


def test_the_papers_numbers_stand_where_they_belong(tmp_path):
    found = {
        name: {(cell.row, cell.column): cell.paper for cell in TABLES[name](settings(tmp_path)).cells}
        for name in TABLES
    }
    assert found["table1"]["Ours", "AMOS-CT"] == ".61(.01)" and found["table1"]["Rand Init", "WUFetal"] == ".73(.02)"
    assert (
        found["table1"]["Transfer Learning", "PROMISE12"] == ".82(.01)"
        and found["table1"]["MedicalNet", "FeTA"] == ".74(.04)"
    )
    assert found["table1"]["Full supervision", "MSD-Heart"] == ".91(.01)"
    assert found["table2"]["MutualInfo", "MM-WHS"] == ".58(.03)" and found["table2"]["SMIT", "L2RAb"] == ".48(.08)"
    assert (
        found["table3"]["loss: denoising", "AMOS-CT"] == ".46(.01)"
        and found["table3"]["Ours", "L2RAb folds"] == "0.22%"
    )
    assert found["table4"]["ConvexAdam", "MM-WHS folds"] == "1.715 ± 3.572"
    assert (
        found["table5"]["PrimGeoSeg UNet", "L2RAb"] == ".36(.06)" and found["table5"]["Ours", "L2RAb-MRI"] == ".86(.05)"
    )
    assert found["table6"]["Ours", "neurite-oasis"] == found["table6"]["Rand Init", "neurite-oasis"] == ".82(.01)"
    assert (
        found["figure8"]["Ours", "AMOS-CT, 3"] == ".61(.01)"
        and found["figure8"]["Rand Init", "AMOS-CT, 180"] == ".85(.00)"
    )
    assert found["figure5"]["ANTs-MI", "L2RAb mean"] == ".48(.10)"


def test_without_data_nothing_is_run_and_what_to_do_is_said(tmp_path):
    for name in TABLES:
        table = TABLES[name](settings(tmp_path))
        assert not needed_steps(table) and all(cell.why_not for cell in table.cells)
    reasons = {cell.why_not for cell in TABLES["table1"](settings(tmp_path)).cells}
    assert any("nnunet-anatomix prepare promise12 --source" in why for why in reasons) and any(
        "never published" in why for why in reasons
    )


def test_figure_7_wants_scans_too(tmp_path):
    for file in ("organs.bank", "brains.bank", "scan.nii.gz"):
        (tmp_path / file).touch()
    banks = {"templates": tmp_path / "organs.bank", "brains": tmp_path / "brains.bank"}
    without = TABLES["figure7"](settings(tmp_path, **banks))
    assert all("needs --images" in cell.why_not for cell in without.cells) and not needed_steps(without)
    table = TABLES["figure7"](settings(tmp_path, images=(tmp_path / "scan.nii.gz",), **banks))
    assert not any(cell.why_not for cell in table.cells) and len(needed_steps(table)) == 5 * 3


def test_some_rows_alone_need_fewer_steps(tmp_path):
    table = TABLES["table3"](settings(tmp_path))
    (row,) = {cell.row for cell in table.only(["loss: denoising"]).cells}
    steps = {step.name for step in table.only([row]).steps}
    assert "pretrain_paper_denoising" in steps and not any("smshapes" in name for name in steps)
    with pytest.raises(InputError, match="no row 'losses', expected one of"):
        table.only(["losses"])


def dataset(raw: Path, name: str, cases: int) -> None:
    (raw / name / "labelsTr").mkdir(parents=True)
    (raw / name / "dataset.json").write_text("{}")
    for number in range(cases):
        (raw / name / "labelsTr" / f"case{number}.nii.gz").touch()


@pytest.mark.parametrize("name", ["table1", "table6"])
def test_given_networks_become_the_papers_rows_and_missing_ones_say_how(tmp_path, name):
    for file in ("disruptive_ae.json", "theirs.json"):
        (tmp_path / file).touch()
    dataset(tmp_path / "raw", "Dataset012_Mice", 5)
    chosen = settings(
        tmp_path,
        datasets=("12",) if name == "table1" else (),
        networks=(tmp_path / "disruptive_ae.json", tmp_path / "theirs.json"),
    )
    table = TABLES[name](chosen)
    cells = {cell.row: cell for cell in table.cells}
    assert cells["Disruptive AE"].read is not None and cells["theirs"].read is not None
    assert cells["Disruptive AE"].paper == {"table1": "", "table6": ".80(.01)"}[name]
    text = format_commands(table, chosen)
    assert f"--starts {tmp_path / 'disruptive_ae.json'} " in text and f"--starts {tmp_path / 'theirs.json'} " in text
    if name == "table6":
        assert "needs --networks models_genesis.json; nnunet-anatomix baseline" in cells["Models Genesis"].why_not
        assert cells["MedicalNet"].paper == ".75(.01)" and cells["MedicalNet"].read is None


def test_other_datasets_and_pairs_take_the_place_of_the_papers(tmp_path):
    chosen = settings(tmp_path, datasets=("12",), pairs=("mine",), transfer=Path(__file__))
    dataset(chosen.data, "Dataset012_Mice", 5)
    (chosen.data / "mine").mkdir()
    pair = PairRow(name="a", fixed="f", moving="m", fixed_labels="fl", moving_labels="ml")
    write_pairs(chosen.data / "mine", PairSettings(name="Mice", moving_clip=(0, 9)), [pair], [pair])
    table = TABLES["table1"](chosen)
    assert {cell.column for cell in table.cells} == {"Mice"} and len(needed_steps(table)) == 4
    assert (
        "-d Dataset012_Mice" in format_commands(table, chosen)
        and "--shots 3" in format_commands(table, chosen)
        and "--patch" not in format_commands(table, chosen)
    )
    text = text_of("figure5", chosen)
    assert "--moving-clip 0 9" in text and "--fixed-clip" not in text
    budgets = [cell.column for cell in TABLES["figure8"](chosen).cells if cell.row == "Ours"]
    assert budgets == ["Mice, 1", "Mice, 3", "Mice, 5"], "no more than there are"


def test_a_prepared_datasets_validation_is_no_budget(tmp_path):
    chosen = settings(tmp_path, datasets=("12",))
    dataset(chosen.data, "Dataset012_Mice", 5)
    folds = [{"train": ["case0"], "val": ["case4"]}, {"train": ["case0", "case1", "case2"], "val": ["case3", "case4"]}]
    (chosen.data / "Dataset012_Mice" / "splits_final.json").write_text(json.dumps(folds))
    assert [cell.column for cell in TABLES["figure8"](chosen).cells if cell.row == "Ours"] == ["Mice, 1", "Mice, 3"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"datasets": ("wufetal",)}, "never published"),
    ({"datasets": ("77",)}, "no single dataset '77'"),
    ({"pairs": ("nowhere",)}, "no folder of pairs 'nowhere'"),
])  # fmt: skip
def test_unknown_data_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        TABLES["table5"](settings(tmp_path, **changes))


def test_a_folder_without_pairs_and_missing_files_are_refused(tmp_path):
    (tmp_path / "raw" / "half").mkdir(parents=True)
    with pytest.raises(InputError, match=r"expected validation.csv, test.csv, pairs.json, found none"):
        TABLES["table4"](settings(tmp_path, pairs=("half",)))
    with pytest.raises(InputError, match=r"no such file nowhere\.bank"):
        settings(tmp_path, templates=Path("nowhere.bank"))
