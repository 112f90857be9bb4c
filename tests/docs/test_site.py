"""Test that the site builds without warnings and holds what the code documents of itself."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, REPOSITORY

pytest.importorskip("sphinx", reason="pip install '.[docs]'")
sys.path.insert(0, str(DOCS / "ext"))
import from_code


@pytest.fixture(scope="module")
def site() -> Path:
    """Return the site that ``make docs`` builds before it runs this file."""
    folder = os.environ.get("ANATOMIX_SITE")
    if not folder:
        pytest.skip("run by `make docs`, which builds the site")
    return Path(folder)


def test_the_site_has_a_start_page_and_a_search(site):
    assert (site / "index.html").is_file() and (site / "search.html").is_file()


def test_every_command_is_on_its_page(site):
    for program, page in (("nnunet-anatomix", "command_line"), ("anatomix-pretrain", "pretraining_command_line")):
        text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
        for command in from_code.commands_of(program):
            assert f"usage: {program} {command} " in text and "<!-- help of" not in text


def test_names_of_our_code_are_links(site):
    for page in (site / "explanation" / "paper_in_code.html", site / "reference" / "python" / "index.html"):
        text = page.read_text(encoding="utf-8")
        named = re.findall(r'<code class="xref py[^"]*">', text)
        linked = re.findall(r'<a class="reference internal"[^>]*><code class="xref py[^"]*">', text)
        assert len(named) == len(linked) > 8


def test_every_package_has_a_reference_page():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    shown = {
        name
        for page in DOCS.rglob("python/*.md")
        for name in re.findall(r"<!-- modules of (\S+) -->", page.read_text())
    }
    without_code = {"nnunet_anatomix.plans", "pretraining.backbone.bundled"}
    commands = {"nnunet_anatomix.commands", "pretraining.commands"}  # shown on the pages of the command line
    assert set(setup["options"]["packages"].split()) - without_code - commands == shown


def test_help_is_shown_as_a_terminal_shows_it():
    text = from_code.help_of("nnunet-anatomix", "evaluate")
    assert text.startswith("usage: nnunet-anatomix evaluate") and "\nflags:\n" in text
    assert "Folder for tables and" in text and "---" not in text


def test_no_part_of_an_attribute_s_docstring_becomes_its_type():
    napoleon = pytest.importorskip("sphinx.ext.napoleon")
    written = ["Sides, voxels. Default: 96."]
    lines = written.copy()
    from_code._protect_colon(None, "attribute", "a", None, None, lines)
    read = napoleon.GoogleDocstring(lines, napoleon.Config(), what="attribute", name="a").lines()
    assert [line for line in read if line] == ["..", *written]
    assert ":type: Sides, voxels. Default" in napoleon.GoogleDocstring(written, what="attribute", name="a").lines()


def test_public_names_lead_to_their_definitions():
    for package in ("pretraining", "nnunet_anatomix"):
        names = from_code.public_names_of(package)
        assert list(names) == importlib.import_module(package).__all__
        for name, (full, summary) in names.items():
            assert full.startswith(f"{package}.") and full.endswith(f".{name}") and summary
