"""Routes: which series a model may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.running.routes import Route, read_routes
from pretraining.common.errors import InputError
from tests.nnunet_anatomix.clinical.dicom_series import write_series


def routes_in(folder: Path, text: str) -> list[Route]:
    (folder / "routes.yaml").write_text(text, encoding="utf-8")
    return read_routes(folder / "routes.yaml")


def test_texts_and_lists_of_texts_are_read(tmp_path):
    (tmp_path / "models" / "liver").mkdir(parents=True)
    liver, brain = routes_in(
        tmp_path,
        """
- name: liver
  model: models/liver
  modality: CT
  body_part: [ABDOMEN, "CHEST*"]
  description: "*venös*"
- {name: brain, model: 905, modality: [MR], map: ["0=description:*t1*"], folds: [0, 1], mirroring: false}
""",
    )
    assert liver == Route(
        name="liver",
        model=str(tmp_path / "models" / "liver"),
        modality=("CT",),
        body_part=("ABDOMEN", "CHEST*"),
        description=("*venös*",),
    )
    assert brain == Route(
        name="brain", model="905", modality=("MR",), map=("0=description:*t1*",), folds=("0", "1"), mirroring=False
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, model: b, bodypart: CT}", "unknown keys"),
        ("- {name: a}", "model"),
        ("- {name: a, model: b}\n- {name: A, model: c}", "several routes are called a"),
        ("- {name: ../a, model: b}", "found '../a'"),
        ("- {name: a, model: b, description: *venous*}", "in quotes"),
        ("- {name: a, model: b, modality: []}", "expected a text or a list of texts"),
        ("- {name: a, model: b, modality: {CT: 1}}", "expected a text or a list of texts"),
        ("- {name: a, model: b, mirroring: 3}", "mirroring"),
        ("name: a", "expected a list of routes"),
        ("- a", "expected a list of routes"),
        ("", "expected a list of routes"),
        ("- !!python/object/apply:os.system ['true']", "cannot read"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text, message, tmp_path):
    with pytest.raises(InputError) as refused:
        routes_in(tmp_path, text)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml"):
        read_routes(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ({}, {"Abdomen venös", "Thorax", "t1"}),
        ({"modality": ("ct",)}, {"Abdomen venös", "Thorax"}),
        ({"modality": ("CT", "MR")}, {"Abdomen venös", "Thorax", "t1"}),
        ({"body_part": ("ABD*",)}, {"Abdomen venös"}),
        ({"body_part": ("*",)}, {"Abdomen venös"}),
        ({"description": ("*VENÖS", "t?")}, {"Abdomen venös", "t1"}),
        ({"modality": ("CT",), "description": ("t1",)}, set()),
    ],
)
def test_a_series_matches_one_pattern_of_every_field(conditions, taken, tmp_path):
    for number, (modality, description, part) in enumerate(
        [("CT", "Abdomen venös", "ABDOMEN"), ("CT", "Thorax", ""), ("MR", "t1", "")]
    ):

        def change(dataset, k, description=description, part=part):
            dataset.SeriesDescription = description
            if part:
                dataset.BodyPartExamined = part

        write_series(tmp_path / str(number), modality=modality, change=change)
    series, _ = scan_tree(tmp_path)
    assert [each.problem for each in series] == [""] * 3
    selected = Route(name="a", model="b", **conditions).select(series)
    assert {each.description for each in selected if not each.problem} == taken
    assert all("not for route a" in each.problem for each in selected if each.description not in taken)
