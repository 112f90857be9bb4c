"""Tests of reading lists, and of one line for each error."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_anatomix.registration.lists import ListRow, pair_name, read_list
from pretraining.common.errors import InputError


def read(path: Path) -> list[ListRow]:
    return read_list(path, "pairs", required=("fixed", "moving"), optional=("mask",), unnamed=pair_name)


def test_cells_are_read_by_column_and_rows_without_a_name_get_one(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('\ufeffmoving,name,fixed,mask\nb.nii,,"a,\n1.nii",\nd.nii,zwölf,c.nii,m.nii\n', encoding="utf-8")
    first, second = read(path)
    assert (
        first[:2] == ("pair001", {"moving": "b.nii", "fixed": "a,\n1.nii"})
        and first.where == f"pairs: line 3 of {path}"
    )
    assert second[:2] == ("zwölf", {"moving": "d.nii", "fixed": "c.nii", "mask": "m.nii"}) and "line 4" in second.where


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns fixed, moving and optionally name, mask, found none"),
        ("fixed,mask\na,b\n", "columns fixed, moving .*found fixed, mask"),
        ("fixed,moving,maks\na,b,c\n", "found fixed, moving, maks"),
        ("fixed,moving,moving\na,b,c\n", "found fixed, moving, moving"),
        ("fixed,moving\n", "no rows below"),
        ("fixed,moving\na,b\nc,\n", "line 3 .*expected fixed and moving"),
        ("fixed,moving\na\n", "line 2 .*expected fixed and moving"),
        ("fixed,moving\na,b,c\n", "at most 2 cells"),
        ('fixed,moving\na,"b\n', "cannot read"),
        ("name,fixed,moving\n../x,a,b\n", "'../x' cannot be used in file names"),
        ("name,fixed,moving\n.,a,b\n", "'.' cannot be used in file names"),
        ("name,fixed,moving\nx,a,b\ny,a,c\nx,b,c\n", "line 4 .*a second row is named 'x'"),
        ("name,fixed,moving\npair002,a,b\n,a,c\n", "line 3 .*a second row is named 'pair002'"),
    ],
)
def test_bad_lists_are_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / "pairs.csv")
    assert str(caught.value).startswith("pairs: ") and "\n" not in str(caught.value)


def test_what_is_no_text_or_not_there_is_refused_in_one_line(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    for name in ("none.csv", "table.xlsx"):
        with pytest.raises(InputError, match=f"pairs: cannot read .*{name}"):
            read(tmp_path / name)
