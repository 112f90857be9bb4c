"""Tests of HTML pages: one file, escaped, with pictures inside."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from pretraining.common.html_page import PagePicture, encode_png, render_page, write_page


class Reader(HTMLParser):
    """Collects texts, links and pictures of a page; its tags must be closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.pictures: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            self.pictures[given["alt"]] = given["src"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))


def test_values_are_escaped_and_tags_closed():
    page = Reader(render_page("<h1>{{ title }}</h1>{{ parts.badge('FAIL') }}", title="<script>a & b</script>"))
    assert page.texts.count("<script>a & b</script>") == 2 and "FAIL" in page.texts


def test_a_table_has_its_cells_levels_and_links():
    text = render_page(
        "{{ parts.table(['pair', 'verdict', 'mm'], rows, numeric=(2,), badges=(1,), links=links) }}",
        title="t",
        rows=[("a b", "PASS", "1.50"), ("c<d", "", "")],
        links={"a b": "a b/page.html"},
    )
    page = Reader(text)
    assert page.texts[1:] == ["pair", "verdict", "mm", "a b", "PASS", "1.50", "c<d"]
    assert page.links == ["a%20b/page.html"]
    assert text.count('class="badge pass"') == 1 and text.count('<td class="number" data-name="mm">') == 2
    assert "<thead>" not in render_page("{{ parts.table([], [('a', 'b')]) }}", title="t")


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)], ids=["grey", "colour"])
def test_pictures_are_inside_the_page(shape):
    picture = np.random.default_rng(0).uniform(size=shape)
    shown = [PagePicture(caption="before & after", png=encode_png(picture))]
    page = Reader(render_page("{{ parts.pictures(shown) }}", title="t", shown=shown))
    kind, _, data = page.pictures["before & after"].partition(",")
    assert kind == "data:image/png;base64" and "before & after" in page.texts
    read = imread(BytesIO(base64.b64decode(data)), format="png")[..., :3]
    np.testing.assert_allclose(read, np.broadcast_to(picture.reshape(7, 5, -1), (7, 5, 3)), atol=1 / 250)


def test_a_page_needs_nothing_else(tmp_path):
    write_page(tmp_path / "new" / "a.html", "<p>{{ title }}</p>", title="Größe")
    text = (tmp_path / "new" / "a.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "Größe" in text
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?:""", text)


def test_a_missing_value_is_an_error():
    with pytest.raises(Exception, match="'missing' is undefined"):
        render_page("{{ missing }}", title="t")
