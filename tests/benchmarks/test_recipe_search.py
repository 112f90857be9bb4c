"""The comparison of recipes: plans that differ in one setting, and rows that are not run twice."""

from __future__ import annotations

import copy
import json

from nnunet_anatomix.finetuning.recipe import Recipe, read_recipe
from pretraining.common.config import to_dict
from tests.benchmarks import recipe_search
from tests.benchmarks.recipe_search import VARIANTS, add_missing_rows, table
from tests.benchmarks.registration_rows import read_rows


def plan() -> dict:
    """A plan with what variants change."""
    architecture = {"arch_kwargs": {"norm": "instance", "norm_affine": True, "width": 16}}
    return {"configurations": {"3d_fullres": {"architecture": architecture}}, "anatomix": to_dict(Recipe())}


def test_a_variant_changes_what_it_names_in_a_copy():
    planned = plan()
    before = copy.deepcopy(planned)
    changed = VARIANTS["table9"].edit(planned)
    assert planned == before and changed["configurations"] == before["configurations"]
    assert read_recipe(changed, {}).augmentation == Recipe().as_in_paper().augmentation
    kwargs = VARIANTS["batch_statistics"].edit(planned)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs == {"norm": "batch", "norm_affine": False, "width": 16}
    assert VARIANTS["recipe"].edit(planned) == before


def test_every_variant_has_a_recipe_that_training_reads():
    rates = {name: read_recipe(variant.edit(plan()), {}).learning_rate for name, variant in VARIANTS.items()}
    assert rates.pop("rate_3e-3") == 3e-3 and set(rates.values()) == {Recipe().learning_rate}


def test_rows_that_exist_are_not_run_again(nnunet, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(data_root / "nnUNet_raw"))
    asked = []

    def fake(work, settings, name, raw, left_out, seed):
        asked.append((name, left_out, seed))
        return {"anterior": 0.5, "posterior": float("nan") if seed else 0.7}

    monkeypatch.setattr(recipe_search, "left_out_dice", fake)
    out = tmp_path / "rows.csv"
    add_missing_rows(out, tmp_path, "901", ["recipe", "stock"])
    add_missing_rows(out, tmp_path, "901", ["recipe", "stock"], seeds=[0, 1])
    assert len(asked) == len(set(asked)) == 2 * 3 * 2
    rows = read_rows(out)
    assert {row["dice"] for row in rows if row["seed"] == "0"} == {"0.6"}
    assert {row["dice"] for row in rows if row["seed"] == "1"} == {"0.5"}
    assert json.loads(rows[0]["labels"]) == {"anterior": 0.5, "posterior": 0.7}
    assert "0.550 (6)" in table(rows)
