"""Page with each artefact alone, weak and strong (as in the paper's Fig. 12)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.atomic import atomic_write
from pretraining.common.random import sample_generator
from pretraining.engine import appearance, online
from pretraining.engine.appearance import apply_appearance, sample_appearance
from pretraining.engine.geometry import apply_geometry, sample_geometry
from pretraining.engine.synthesis import EngineConfig, synthesize_stored
from pretraining.previews.samples import colour_labels

DRAWS = 40
"""Number of draws of each artefact, from which a weak and a strong one are chosen."""
WEAK, STRONG = 0.2, 0.9
"""Quantiles of the change of the view that define a weak and a strong artefact."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """Two pictures of one artefact."""

    name: str
    """Name of the artefact."""
    offline: bool
    """Part of the offline set, which is stored; else of the online set."""
    weak: Tensor
    """(X, Y) middle slice in [0, 1]."""
    strong: Tensor
    """(X, Y) middle slice in [0, 1]."""


def make_examples(view: Tensor, labels: Tensor, config: EngineConfig, *, seed: int = 0) -> list[Example]:
    """Apply every artefact of both sets alone to one view.

    The artefacts are those of the engine's tables, so a new one appears without a change here. The
    strength of an artefact is the mean absolute change of the view.

    Args:
        view: (X, Y, Z) in [0, 1], without artefacts.
        labels: (X, Y, Z) uint8, for the geometry that labels and views share.
        config: Settings of the engine.
        seed: Seed of the artefacts.

    Returns:
        One example per artefact: offline set, flip, affine map, then the online set.
    """

    def geometric(image: Tensor, params: Any) -> Tensor:
        return apply_geometry(labels, image[None], params)[1][0]

    affine = dataclasses.replace(config.online.geometry, flip_probability=0.0, affine_probability=1.0)
    flip = dataclasses.replace(config.online.geometry, flip_probability=1.0, affine_probability=0.0)
    rows: list[tuple[str, bool, Any, Callable[..., Any], Callable[..., Tensor]]] = []
    rows += [(name, True, getattr(config.appearance, name), *pair) for name, pair in appearance.ARTEFACTS.items()]
    rows += [("flip", False, flip, sample_geometry, geometric), ("affine", False, affine, sample_geometry, geometric)]
    rows += [(name, False, getattr(config.online, name), *pair) for name, pair in online.ARTEFACTS.items()]
    examples = []
    for name, offline, artefact, sample, apply in rows:
        always = dataclasses.replace(artefact, probability=1.0) if hasattr(artefact, "probability") else artefact
        draws = [sample(always, sample_generator(seed, i, f"{offline} {name}")) for i in range(DRAWS)]
        changed = [appearance.min_max(apply(view, params)) for params in draws]
        order = sorted(range(DRAWS), key=lambda i: (changed[i] - view).abs().mean().item())
        weak, strong = (changed[order[round(share * (DRAWS - 1))]][..., view.shape[2] // 2] for share in (WEAK, STRONG))
        examples.append(Example(name=name, offline=offline, weak=weak, strong=strong))
    return examples


def artefact_page(
    bank: TemplateBank, config: EngineConfig, out_png: Path, *, seed: int = 0, index: int = 0
) -> list[str]:
    """Write a picture with one column per artefact, weak above and strong below.

    The offline set comes first, then the online set.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        out_png: PNG file, written atomically.
        seed: Seed of the sample and of the artefacts.
        index: Number of the sample whose label map is shown.

    Returns:
        Names of the artefacts, in order.
    """
    # Imported here, since only pictures need it. Figure without pyplot has no global state and
    # needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = synthesize_stored(bank, config, seed=seed, index=index).labels
    count = int(labels.max()) + 1
    plain = dataclasses.replace(
        sample_appearance(config.appearance, count, sample_generator(seed, index, "artefact page")), artefacts=()
    )
    with torch.no_grad():
        clean = apply_appearance(labels, plain)
        examples = make_examples(clean, labels, config, seed=seed)

    columns = 5
    middle = config.side // 2
    cells: list[tuple[tuple[str, str], tuple[np.ndarray, np.ndarray], str]] = [
        (("labels", "no artefact"), (colour_labels(labels[..., middle].numpy()), clean[..., middle].numpy()), "black")
    ]
    for example in examples:
        name, colour = example.name.replace("_", " "), "black" if example.offline else "tab:red"
        cells.append(((f"{name}, weak", f"{name}, strong"), (example.weak.numpy(), example.strong.numpy()), colour))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(2.1 * columns, 4.5 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (titles, pictures, colour) in enumerate(cells):
        for j, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
            axis = axes[2 * (i // columns) + j, i % columns]
            axis.imshow(
                np.swapaxes(picture, 0, 1), cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest"
            )
            axis.set_title(title, fontsize=9, color=colour, pad=3)
    figure.suptitle("each artefact alone: offline set (black) and online set (red)", fontsize=10)
    with atomic_write(out_png) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return [example.name for example in examples]
