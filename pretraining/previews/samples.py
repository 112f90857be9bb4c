"""Pictures of what the engine makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.atomic import atomic_write
from pretraining.engine.synthesis import EngineConfig, synthesize_pair

COLUMNS = ("labels", "view 1", "view 2")


def contact_sheet(
    bank: TemplateBank, config: EngineConfig, out_png: Path, *, count: int = 6, seed: int = 0, device: str = "cpu"
) -> None:
    """Write a picture with one row per sample: labels, view 1 and view 2, the middle slice of z (as the paper's Fig. 9).

    Args:
        out_png: Written whole or not at all.
        count: Of samples, from index 0 on, >= 1.
        seed: Of the data set.
    """
    # Imported here: only pictures need it. Figure without pyplot keeps no global state and asks for
    # no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if count < 1:
        raise ValueError(f"a contact sheet needs at least one sample, got count={count}")
    # Two samples side by side keep the sheet from getting long and thin.
    pairs_a_row = 2 if count > 1 else 1
    rows = -(-count // pairs_a_row)
    figure = Figure(figsize=(2.2 * 3 * pairs_a_row, 2.2 * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3 * pairs_a_row, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index in range(count):
        pair = synthesize_pair(bank, config, seed=seed, index=index, device=device)
        middle = config.side // 2
        slices = (colour_labels(pair.labels[:, :, middle].cpu().numpy()), *pair.views[..., middle].cpu().numpy())
        first = 3 * (index % pairs_a_row)
        for axis, picture, title in zip(axes[index // pairs_a_row, first : first + 3], slices, COLUMNS, strict=True):
            axis.imshow(
                np.swapaxes(picture, 0, 1), cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest"
            )
            axis.set_title(f"{title} · {index}", fontsize=8)
    with atomic_write(out_png) as partial:
        figure.savefig(partial, format="png", dpi=120)


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """(X, Y) labels as (X, Y, 3) colours: background black, neighbouring numbers far apart in hue."""
    # Steps of the golden ratio spread hues evenly for any number of labels.
    hue = (labels * 0.618034) % 1.0
    lightness = 0.55 + 0.35 * ((labels * 0.41421) % 1.0)
    phases = hue[..., None] * 6 + np.array([0.0, 4.0, 2.0])
    rgb = np.clip(np.abs(phases % 6 - 3) - 1, 0, 1) * 0.75 + 0.25
    return np.where(labels[..., None] > 0, rgb * lightness[..., None], 0.0)
