"""The notebook is made from the tutorial, and it runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re

import pytest

from tests.docs.pages import DOCS

_SPEC = importlib.util.spec_from_file_location("notebook", DOCS / "ext" / "notebook.py")
notebook = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(notebook)


def test_the_notebook_is_the_tutorial():
    page = notebook.TUTORIAL.read_text(encoding="utf-8")
    text = notebook.NOTEBOOK.read_text(encoding="utf-8")
    assert text == notebook.notebook_of(page), "run: python docs/ext/notebook.py"
    cells = json.loads(text)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == len(re.findall(r"^```bash$", page, re.MULTILINE)) > 3
    assert "](../" not in text and 'os.environ["nnUNet_raw"] = os.path.abspath("nnUNet_raw")' in code[0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in [name for name in os.environ if name.startswith(("ANATOMIX_", "nnUNet_"))]:
        monkeypatch.delenv(name)
    text = re.sub(r"--iterations \d+", "--iterations 2", notebook.NOTEBOOK.read_text(encoding="utf-8"))
    book = nbformat.reads(text, as_version=4)
    nbclient.NotebookClient(book, timeout=1500, resources={"metadata": {"path": tmp_path}}).execute()
    assert (tmp_path / "first_model" / "predictions" / "table.md").is_file()
