"""Pages measured in Chromium: what is wider than the screen."""

from __future__ import annotations

import html
import http.server
import json
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

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
