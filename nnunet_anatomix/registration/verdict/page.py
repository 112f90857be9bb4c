"""Page of one registration: verdict, numbers, pictures before and after, and the displacement."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_anatomix.registration.field_pictures import field_panels
from nnunet_anatomix.registration.pictures import COLUMNS
from nnunet_anatomix.registration.verdict.criteria import CRITERIA
from nnunet_anatomix.registration.verdict.judge import RegistrationVerdict
from pretraining.common.html_page import PagePicture, encode_png, write_page
from pretraining.common.versions import VERSION

if TYPE_CHECKING:
    from nnunet_anatomix.registration.register import Registration

_TEMPLATE = """
<h1>{{ title }} {{ parts.badge(verdict.level) }}</h1>
<p class="{{ verdict.level | lower }}">{{ verdict.reason }}</p>

<h2>Verdict</h2>
{{ parts.table(["measure", "verdict", "value", "WARN", "FAIL"], criteria, numeric=(2, 3, 4), badges=(1,)) }}
<p class="faint">Agreement is the correlation of self-similarity descriptors (MIND-SSC) in the content of both scans,
1 for equal structure. What is left over is how far a coarse registration would still move the registered pair.
The thresholds separate pairs of known outcome; they do not replace a look at the pictures.</p>

<h2>Before and after</h2>
<p class="faint">Slices through the middle of the fixed scan; the patient's right is on the left. &ldquo;Before&rdquo;
is after the start alone. Edges are those of the fixed scan, drawn on the moving one.</p>
{% for view, pictures in views.items() %}
<h3>{{ view }}</h3>
{{ parts.pictures(pictures) }}
{% endfor %}

<h2>Displacement</h2>
<p class="faint">Without the linear start. Length: from 0 (dark blue) to {{ longest }} mm (yellow), with lines at equal
distances in the moving scan. Volume: that in the moving scan relative to the fixed one, from half (blue) to double
(red), magenta where space folds.</p>
{{ parts.pictures(field) }}

<h2>More numbers</h2>
{{ parts.table([], numbers) }}
<p class="faint">nnunet-anatomix {{ version }}</p>
"""


def write_pair_page(
    path: Path,
    registration: Registration,
    measures: Mapping[str, Any],
    verdict: RegistrationVerdict,
    views: Mapping[str, list[np.ndarray]],
    *,
    pair: str,
    files: Mapping[str, str],
) -> None:
    """Write the page of one registration.

    Args:
        path: HTML file, written atomically.
        registration: Result of the registration.
        measures: Measures and metrics, name → value.
        verdict: Verdict on them.
        views: Panels from :func:`nnunet_anatomix.registration.pictures.panels`.
        pair: Name of the pair, the title.
        files: Role → file, of what was registered.
    """
    field, longest_mm = field_panels(registration.fixed, registration.displacement, registration.grid)
    write_page(
        path,
        _TEMPLATE,
        title=pair,
        verdict=verdict,
        criteria=[
            (
                criterion.name,
                verdict.levels[criterion.measure],
                criterion.text(measures.get(criterion.measure)),
                criterion.limit(criterion.warn),
                criterion.limit(criterion.fail),
            )
            for criterion in CRITERIA
        ],
        views={
            view: [PagePicture(caption=name, png=encode_png(panel)) for name, panel in zip(COLUMNS, row, strict=True)]
            for view, row in views.items()
        },
        field=[
            PagePicture(caption=f"{view}, {name}", png=encode_png(panel))
            for view, row in field.items()
            for name, panel in zip(("length", "volume"), row, strict=True)
        ],
        longest=f"{longest_mm:.1f}",
        numbers=_numbers(registration, measures, files),
        version=VERSION,
    )


def _numbers(
    registration: Registration, measures: Mapping[str, Any], files: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return what else is known of the registration, for a table of two columns."""
    start = registration.start
    rows = [(role.replace("_", " "), file) for role, file in files.items() if role != "name"]
    rows += [
        ("method", str(registration.settings["method"])),
        ("start", f"{start.name}, {registration.settings['affine']}"),
        ("seconds", f"{sum(registration.seconds.values()):.0f}"),
        ("agreement after the start alone", _text(measures.get("agreement_before"))),
        ("left over, median", _text(measures.get("left_over_mm"), "mm")),
        ("displacement, 95th percentile", _text(measures.get("displacement_mm"), "mm")),
        ("inverse error, 95th percentile", _text(measures.get("inverse_error_p95_mm"), "mm")),
    ]
    for key, name in (("dice_before", "Dice before, mean"), ("dice", "Dice, mean"), ("hd95_mm", "HD95, mean")):
        values = [value for value in (measures.get(key) or {}).values() if value is not None]
        if values:
            rows.append((f"{name} of {len(values)} labels", _text(float(np.mean(values)), "mm" * (key == "hd95_mm"))))
    for key, name in (("tre_before_mm", "landmarks before, median"), ("tre_mm", "landmarks, median")):
        if measures.get(key):
            rows.append((name, _text(float(np.median(measures[key])), "mm")))
    return rows


def _text(value: float | None, unit: str = "") -> str:
    return "–" if value is None or not isfinite(value) else f"{value:.3f} {unit}".strip()
