"""Balanced draws: the share of a body region does not grow with its number of subjects."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from pretraining.bank.balance import FULL_WEIGHT_KINDS, draw_balanced, group_by_region, organ_kind
from pretraining.bank.bank_index import TemplateEntry
from pretraining.common.random import sample_generator
from pretraining.engine.anatomy import AnatomyConfig, sample_anatomy
from pretraining.engine.ensemble import EnsembleConfig, sample_ensemble
from tests.pretraining.engine.subjects import bank_of_subjects, body

TORSO = ("liver", "spleen", "kidney_left", "kidney_right", "ribs", "heart")


def entries(organs_of: dict[str, tuple[str, ...]], subjects: int = 1) -> list[TemplateEntry]:
    where = {"shape": (1, 1, 1), "offset": (0, 0, 0), "voxel_count": 1}
    return [
        TemplateEntry(source=source, subject=str(subject), organ=organ, **where)
        for source, organs in organs_of.items()
        for subject in range(subjects)
        for organ in organs
    ]


def names(found) -> list[tuple[str, int]]:
    return [(region.name, len(region.kinds)) for region in found]


@pytest.mark.parametrize(
    ("organ", "kind"),
    [
        ("lung_upper_lobe_left", "lung upper lobe"),
        ("Parotid-Lt", "parotid"),
        ("Left-Hippocampus", "hippocampus"),
        ("RightKidney", "kidney"),
        ("ctx-lh-precuneus", "ctx precuneus"),
        ("A_Carotid_L", "a carotid"),
        ("rib 12", "rib"),
        ("ribs", "ribs"),
        ("CSF", "csf"),
        ("label_17", "label_17"),
        ("left", "left"),
        ("L3", "L3"),
        ("肝左", "肝左"),
    ],
)
def test_kinds_have_neither_sides_nor_numbers(organ, kind):
    assert organ_kind(organ) == kind


def test_both_sides_are_one_kind_and_every_template_is_in_one():
    (region,) = group_by_region(entries({"ts": TORSO}, subjects=3), {})
    assert region.name == "ts" and (2, 3, 8, 9, 14, 15) in region.kinds and len(region.kinds) == 5
    assert sorted(i for kind in region.kinds for i in kind) == list(range(18))


def test_sources_with_the_same_organs_are_one_region():
    found = group_by_region(
        entries({"ts": TORSO, "brains": ("thalamus", "pons"), "more": ("Liver", "Spleen", "gallbladder")}), {}
    )
    assert names(found) == [("ts", 6), ("brains", 2)]


def test_a_number_means_something_else_in_every_source():
    numbered = tuple(f"label_{i}" for i in range(1, 6))
    found = group_by_region(entries({"a": numbered, "b": numbered}), {})
    assert names(found) == [("a", 5), ("b", 5)]
    # Where both are said to show the same part of the body, too.
    assert names(group_by_region(entries({"a": numbered, "b": numbered}), {"a": "head", "b": "head"})) == [("head", 10)]


def test_the_first_folder_that_differs_tells_regions_apart():
    found = group_by_region(entries({"all/heads/one": ("a",), "all/heads/two": ("b",), "all/bodies": ("c", "d")}), {})
    assert names(found) == [("all/heads", 2), ("all/bodies", 2)]
    assert names(group_by_region(entries({"all/heads": ("a",)}), {})) == [("all/heads", 1)]


def test_a_stated_region_goes_first():
    organs = {"ts": TORSO, "more": TORSO, "brains": ("thalamus",)}
    assert names(group_by_region(entries(organs), {"more": "torso 2"})) == [("ts", 5), ("torso 2", 5), ("brains", 1)]


def test_shares_of_regions_kinds_and_templates():
    """Test many subjects of one region, few of another, and a region with a single kind."""
    heads = entries({"heads": tuple(f"nucleus {chr(97 + i)}{chr(97 + i)}" for i in range(25))}, subjects=40)
    bodies = entries({"bodies": tuple(f"organ {chr(97 + i)}{chr(97 + i)}" for i in range(21))}, subjects=2)
    livers = entries({"livers": ("liver",)}, subjects=30)
    regions = group_by_region(heads + bodies + livers, {})
    assert [region.weight for region in regions] == [FULL_WEIGHT_KINDS, FULL_WEIGHT_KINDS, 1]
    count = 20_000
    drawn = np.array(draw_balanced(regions, count, sample_generator(0, 0)))
    share = np.bincount(np.digitize(drawn, [1000, 1042]), minlength=3) / count
    assert np.abs(share - np.array([20, 20, 1]) / 41).max() < 0.015
    assert set(drawn[drawn >= 1000].tolist()) == set(range(1000, 1072))
    of_kind = np.bincount(drawn[drawn < 1000] % 25, minlength=25)
    assert of_kind.min() > 0.8 * of_kind.mean() and of_kind.max() < 1.2 * of_kind.mean()


def test_a_finely_parted_atlas_does_not_stand_for_its_region():
    brains = entries({"brains": tuple(f"label_{i}" for i in range(20))}, subjects=20)
    atlas = entries({"atlas": tuple(f"label_{i}" for i in range(300))})
    regions = group_by_region(brains + atlas, {"brains": "head", "atlas": "head"})
    assert names(regions) == [("head", 320)]
    drawn = np.array(draw_balanced(regions, 4000, sample_generator(0, 0)))
    assert abs((drawn < 400).mean() - 1 / 2) < 0.03


@pytest.fixture(scope="module")
def bank():
    heads = {("heads", str(i)): body(5, seed=i) for i in range(12)}
    bodies = {("bodies", "a"): body(8, seed=20)}
    declared = bank_of_subjects(heads | bodies, regions={"heads": "head", "bodies": "body"})
    assert [region.name for region in declared.regions] == ["head", "body"] and declared.regions is declared.regions
    return declared


def test_an_ensemble_is_drawn_in_balance_where_asked_for(bank):
    def share_of_bodies(config: EnsembleConfig) -> float:
        drawn = [
            sample_ensemble(config, (32, 32, 32), bank, sample_generator(0, index)).templates for index in range(60)
        ]
        return float(np.mean([i >= 60 for templates in drawn for i in templates]))

    # Both have kinds without numbers: "organ", once in each region.
    assert abs(share_of_bodies(EnsembleConfig(draw="balanced")) - 1 / 2) < 0.06
    assert abs(share_of_bodies(EnsembleConfig()) - 8 / 68) < 0.04


def test_the_uniform_draw_is_the_published_one(bank):
    """Indices are drawn right after their count: samples of existing banks must not change."""
    generator = sample_generator(0, 3)
    ensemble = sample_ensemble(EnsembleConfig(template_count=(5, 5)), (32, 32, 32), bank, generator)
    again = sample_generator(0, 3)
    assert torch.randint(5, 6, (1,), generator=again).item() == 5
    assert ensemble.templates == tuple(torch.randint(0, len(bank), (5,), generator=again).tolist())


def test_whole_anatomies_are_drawn_in_balance_where_asked_for(bank):
    def drawn(config: AnatomyConfig) -> Counter:
        subjects = bank.subjects()
        source_of = {organs: source for (source, _), organs in subjects.items()}
        return Counter(
            source_of[sample_anatomy(config, (32, 32, 32), bank, sample_generator(0, i)).organs] for i in range(200)
        )

    assert abs(drawn(AnatomyConfig(draw="balanced"))["bodies"] - 100) < 30
    assert drawn(AnatomyConfig())["bodies"] < 35
    # Regions without a whole subject take no share.
    assert set(drawn(AnatomyConfig(draw="balanced", min_organs=8))) == {"bodies"}


@pytest.mark.parametrize("config", [EnsembleConfig, AnatomyConfig])
def test_another_draw_is_refused(config):
    with pytest.raises(ValueError, match="draw: expected one of"):
        config(draw="fair")
    assert dataclasses.asdict(config())["draw"] == "uniform"
