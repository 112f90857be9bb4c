"""HTML pages of one file: pictures are inside, and a browser needs no network to show them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretraining.common.atomic import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="nnunet-anatomix">
{% if refresh_s is defined and refresh_s %}<meta http-equiv="refresh" content="{{ refresh_s }}">
{% endif %}
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #f3f4f6; --line: #d5d9de; --faint: #5b6570;
  --pass: #17753a; --warn: #8a5a00; --fail: #b3261e; --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171a; --soft: #1f2429; --line: #363d45;
  --faint: #9aa4ae; --pass: #62c386; --warn: #e0ad4a; --fail: #ff8a80; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; max-width: 84rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 72ch; overflow-wrap: anywhere; }
a { color: var(--link); }
.faint { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
.pass { color: var(--pass); } .warn { color: var(--warn); } .fail { color: var(--fail); }
.badge { display: inline-block; border: 2px solid; border-radius: .4rem; padding: 0 .5rem; font-weight: 700;
  letter-spacing: .03em; white-space: nowrap; }
.pictures { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
.pictures.wide { grid-template-columns: repeat(auto-fill, minmax(min(34rem, 100%), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; background: #000; border-radius: .25rem; }
figcaption { font-size: .85rem; color: var(--faint); }
@media (max-width: 34rem) { .pictures { grid-template-columns: 1fr 1fr; gap: .35rem; }
  thead { display: none; } tbody, tr, td { display: block; }
  tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
  td { border: 0; padding: .1rem 0; overflow-wrap: anywhere; } td:empty { display: none; }
  td:first-child { font-weight: 600; } td.number { display: inline-block; padding-right: 1rem; text-align: left; }
  td.number:empty { display: none; } td.number::before { content: attr(data-name) " "; color: var(--faint); } }
</style>
</head>
<body>
{% block body %}{% endblock %}
</body>
</html>
"""
"""Frame and style of all pages; a template extends it and fills the block ``body``."""

_PARTS = """
{% macro badge(level) %}<span class="badge {{ level | lower }}">{{ level }}</span>{% endmacro %}
{% macro table(columns, rows, numeric=(), badges=(), links={}) %}
<div class="scroll"><table>
{% if columns %}
<thead><tr>{% for name in columns %}<th{% if loop.index0 in numeric %} class="number"{% endif %}>{{ name }}</th>
{%- endfor %}</tr></thead>
{% endif %}
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td
{%- if loop.index0 in numeric %} class="number" data-name="{{ columns[loop.index0] }}"{% endif %}>
{%- if cell and loop.index0 in badges %}{{ badge(cell) }}
{%- elif cell in links %}<a href="{{ links[cell] | urlencode }}">{{ cell }}</a>
{%- else %}{{ cell }}{% endif %}</td>
{%- endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% endmacro %}
{% macro pictures(pictures, wide=false) %}
<div class="pictures{% if wide %} wide{% endif %}">
{% for one in pictures %}<figure><img src="{{ one.png | data_url }}" alt="{{ one.caption }}">
<figcaption>{{ one.caption }}</figcaption></figure>
{% endfor %}</div>
{% endmacro %}
"""
"""Parts of pages, for ``{% import "parts" as parts %}``."""


@dataclass(frozen=True, kw_only=True)
class PagePicture:
    """A picture of a page.

    Attributes:
        caption: Line below the picture, also its alternative text.
        png: Content of the PNG file.
    """

    caption: str
    png: bytes


def render_page(template: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: Content of the page's body, a template of Jinja. Values are escaped. The macros
            ``parts.badge(level)``, ``parts.pictures(pictures, wide)`` and ``parts.table(columns,
            rows, numeric, badges, links)`` are defined: numbers of the columns to align right and
            of those that hold levels, and cell → address.
        **values: Values of the template, among them ``title``, and ``refresh_s`` for a page that
            reloads itself after so many seconds.

    Returns:
        The page, HTML with all pictures inside.

    Raises:
        jinja2.UndefinedError: If the template uses a value that is missing.
    """
    page = '{% extends "page" %}{% block body %}{% import "parts" as parts %}' + template + "{% endblock %}"
    return _environment().from_string(page).render(**values)


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Render a page and write it atomically.

    Args:
        path: HTML file. Missing folders are created.
        template: See :func:`render_page`.
        **values: See :func:`render_page`.

    Raises:
        InputError: If ``path`` is a folder, or one of its parent folders is a file.
        NotWritten: If the disk is full, or the file on disk is incomplete.
    """
    write_text(path, render_page(template, **values))


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader({"page": _PAGE, "parts": _PARTS}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return environment


def encode_png(picture: np.ndarray) -> bytes:
    """Encode a picture.

    Args:
        picture: (H, W) grey or (H, W, 3) sRGB, in [0, 1].

    Returns:
        Content of a PNG file.
    """
    from matplotlib.image import imsave

    stream = BytesIO()
    imsave(stream, np.clip(picture, 0, 1), format="png", cmap="gray", vmin=0, vmax=1)
    return stream.getvalue()
