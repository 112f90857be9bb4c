"""No page of the site is wider than the screen, at 1400 pixels and at a phone's 400.

At 1400 no table is wider than its frame either.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.chromium import CHROMIUM, overflows


@pytest.fixture(scope="module")
def site() -> Path:
    """Return the site that ``make docs`` builds before it runs this file."""
    folder = os.environ.get("ANATOMIX_SITE")
    if not folder:
        pytest.skip("run by `make docs`, which builds the site")
    if CHROMIUM is None:
        pytest.skip("found no Chromium; on Debian: apt-get install chromium")
    return Path(folder)


@pytest.mark.parametrize("width", [1400, 400])
def test_no_page_of_the_site_overflows(site, width):
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if "_static" not in path.parts)
    found = overflows(site, pages, width)
    assert found.keys() == set(pages) and len(pages) > 30
    assert not {page: elements for page, elements in found.items() if elements}


@pytest.mark.skipif(CHROMIUM is None, reason="found no Chromium; on Debian: apt-get install chromium")
@pytest.mark.parametrize("width", [1400, 400])
def test_a_page_that_is_too_wide_is_found(tmp_path, width):
    (tmp_path / "wide.html").write_text("<!doctype html><body><div class=bar style='width:1500px'>x</div>")
    (tmp_path / "slim.html").write_text("<!doctype html><body><p>x</p>")
    table = "<div class=table-wrapper style='overflow-x:auto'><table><td style='min-width:1500px'>x</table></div>"
    (tmp_path / "table.html").write_text(f"<!doctype html><body>{table}")
    found = overflows(tmp_path, ["wide.html", "slim.html", "table.html"], width)
    assert found["slim.html"] == [] and found["wide.html"][0] == "div.bar"
    assert len(found["table.html"]) == (width > 1000)  # a phone may scroll it inside its frame
