"""Contact sheet of synthetic samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.atomic import atomic_write
from pretraining.engine.synthesis import EngineConfig, synthesize_pair

COLUMNS = ("labels", "view 1", "view 2")
"""Titles of the columns of one sample."""


def contact_sheet(
    bank: TemplateBank, config: EngineConfig, out_png: Path, *, count: int = 6, seed: int = 0, device: str = "cpu"
) -> None:
    """Write a picture of samples: middle z slices of labels and both views (as in Fig. 9).

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        out_png: PNG file, written atomically.
        count: Number of samples, from index 0 on, >= 1.
        seed: Seed of the data set.
        device: Device that computes the samples.

    Raises:
        ValueError: If ``count`` is below 1.
    """
    # Imported here, since only pictures need it. Figure without pyplot has no global state and
    # needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if count < 1:
        raise ValueError(f"a contact sheet needs at least one sample, got count={count}")
    # Two samples per row, so that the sheet is not too long and narrow.
    samples_per_row = 2 if count > 1 else 1
    rows = -(-count // samples_per_row)
    figure = Figure(figsize=(2.2 * 3 * samples_per_row, 2.2 * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3 * samples_per_row, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index in range(count):
        pair = synthesize_pair(bank, config, seed=seed, index=index, device=device)
        middle = config.side // 2
        slices = (colour_labels(pair.labels[:, :, middle].cpu().numpy()), *pair.views[..., middle].cpu().numpy())
        row, first = index // samples_per_row, 3 * (index % samples_per_row)
        for axis, picture, title in zip(axes[row, first : first + 3], slices, COLUMNS, strict=True):
            axis.imshow(
                np.swapaxes(picture, 0, 1), cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest"
            )
            axis.set_title(f"{title} · {index}", fontsize=8)
    with atomic_write(out_png) as partial:
        figure.savefig(partial, format="png", dpi=120)


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Colour (X, Y) labels: (X, Y, 3) in [0, 1], background black, consecutive labels distinct."""
    # Multiples of the golden ratio spread hues evenly for any number of labels.
    hue = (labels * 0.618034) % 1.0
    lightness = 0.55 + 0.35 * ((labels * 0.41421) % 1.0)
    phases = hue[..., None] * 6 + np.array([0.0, 4.0, 2.0])
    rgb = np.clip(np.abs(phases % 6 - 3) - 1, 0, 1) * 0.75 + 0.25
    return np.where(labels[..., None] > 0, rgb * lightness[..., None], 0.0)
