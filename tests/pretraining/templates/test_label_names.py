"""Names of the numbers of a label map, from each supported form of file."""

import json

import pytest

from pretraining.templates.label_names import names_in, read_label_names


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"background": 0, "liver": 1, "spleen": 2}, {1: "liver", 2: "spleen"}),
        ({"0": "background", "1": "liver", "12": "spleen"}, {1: "liver", 12: "spleen"}),
        ({"liver": "1"}, {1: "liver"}),
        (
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
            {1: "whole", 2: "core", 3: "enhancing"},
        ),
        (
            {"background": 0, "enhancing": [3], "core": [2, 3], "whole": [1, 2, 3]},
            {1: "whole", 2: "core", 3: "enhancing"},
        ),
        ({"background": 0, "kidneys": [1, 2]}, {1: "kidneys", 2: "kidneys"}),
        ({"background": 0, "liver": 1, "ignore": 2}, {1: "liver", 2: None}),
        ({}, {}),
    ],
)
def test_names_of_numbers(labels, names, tmp_path):
    assert names_in(labels) == names
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    assert read_label_names(tmp_path / "dataset.json") == (names, None)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1, 2]",
        "\x00",
        "{}",
        '{"labels": 3}',
        '{"labels": ["liver"]}',
        '{"labels": {"liver": "one"}}',
        '{"labels": {"liver": 1.5}}',
        '{"labels": {"liver": true}}',
        '{"labels": {"liver": null}}',
        '{"labels": {"liver": [1, [2]]}}',
        '{"labels": {"liver": -1}}',
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(tmp_path, text):
    path = tmp_path / "dataset.json"
    path.write_text(text)
    names, problem = read_label_names(path)
    assert names == {} and problem.what == str(path) and problem.kind == "unusable"
    assert (
        problem.why.startswith('expected "labels": {')
        and "so labels are named by number" in problem.why
        and "\n" not in problem.why
    )


def test_a_missing_file_is_no_problem(tmp_path):
    assert read_label_names(tmp_path / "labels.json") == ({}, None)
