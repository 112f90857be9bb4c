"""No page of the site is wider than the screen, at 1400 pixels and at a phone's 400.

At 1400 no table is wider than its frame either.
"""

from __future__ import annotations

import html
import http.server
import json
import os
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_MEASURE = """<!doctype html><title>measure</title><body><script>
const pages = %s, width = %d, found = {};
async function measure(page) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.src = page;
  document.body.append(frame);
  await new Promise(done => { frame.onload = done; });
  const root = frame.contentDocument.documentElement;
  found[page] = root.scrollWidth <= width ? [] : [...root.querySelectorAll("body *")]
    .filter(one => one.getBoundingClientRect().right > width + 1 && one.getBoundingClientRect().left < width)
    .map(one => `${one.tagName.toLowerCase()}.${one.className}`).slice(0, 5).concat(`${root.scrollWidth} px`);
  if (width > 1000) for (const one of root.querySelectorAll(".table-wrapper"))
    if (one.scrollWidth > one.clientWidth + 1) found[page].push(`table of ${one.scrollWidth} px`);
  frame.remove();
}
(async () => {
  for (const page of pages) await measure(page);
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script></body>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def overflows(folder: Path, pages: list[str], width: int) -> dict[str, list[str]]:
    """Return the elements of each page that make it wider than so many pixels."""
    measuring = folder / f"measure-{width}.html"
    measuring.write_text(_MEASURE % (json.dumps(pages), width), encoding="utf-8")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{measuring.name}"
        dom = subprocess.run(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width + 40},1000",
             "--virtual-time-budget=120000", "--dump-dom", address],
            capture_output=True, text=True, timeout=300, check=True,
        ).stdout  # fmt: skip
        server.shutdown()
    measuring.unlink()
    return json.loads(html.unescape(dom.split('<pre id="found">')[1].split("</pre>")[0]))


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
