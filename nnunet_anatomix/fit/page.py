"""Live page of a fit: rounds, losses, Dice and slices of the left-out scans, in one HTML file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isnan

import numpy as np

from nnunet_anatomix.finetuning.dataset import RawDataset
from nnunet_anatomix.fit.folder import PAGE, FitFolder, FoldName
from nnunet_anatomix.fit.rounds import Round, best_round
from nnunet_anatomix.fit.slices import draw_slices
from nnunet_anatomix.fit.training_log import TrainingLog, read_training_log
from pretraining.common.html_page import PagePicture, encode_png, write_page

log = logging.getLogger(__name__)

REFRESH_S = 15
_MAX_SLICES = 6

_BODY = """
<h1>{{ title }}</h1>
<p>{{ state }}</p>
{% if progress %}<p class="faint">{{ progress }}</p>{% endif %}
{% if expected %}<p>Expected on a new scan: <strong>{{ expected }}</strong></p>{% endif %}
{% for line in commands %}<p><code>{{ line }}</code></p>
{% endfor %}
{% if rounds %}<h2>Rounds of cross-validation</h2>
<p class="faint">Each round trains a network per fold from the pretrained weights, on all labelled scans but those that
it is tested on.</p>
{{ parts.table(columns, rounds, numeric) }}
{% endif %}
{% if curves %}<h2>Training: loss and Dice</h2>
<p class="faint">Dice on patches of left-out scans while a network trains; whole scans are in the table.</p>
{{ parts.pictures(curves, wide=true) }}
{% endif %}
{% if slices %}<h2>Left-out scans: scan, truth, prediction</h2>
{{ parts.pictures(slices, wide=true) }}
{% endif %}
"""


@dataclass
class PageState:
    """Content of the page; the fit changes it while the page is redrawn.

    Attributes:
        folder: Folder of the fit.
        dataset: Dataset.
        rounds: Finished rounds.
        state: Line on what happens now.
        current: Steps and folds of the trainings whose curves are drawn.
        commands: Lines to be run next.
    """

    folder: FitFolder
    dataset: RawDataset
    rounds: list[Round] = field(default_factory=list)
    state: str = "starting"
    current: tuple[int, tuple[FoldName, ...]] = (0, ())
    commands: tuple[str, ...] = ()
    _slices: tuple[Round | None, list[PagePicture]] = (None, [])


@contextmanager
def live_page(state: PageState, *, every_s: float = REFRESH_S) -> Iterator[None]:
    """Redraw the page while a block runs, and once more after it.

    Args:
        state: What to show.
        every_s: Time between two drawings, seconds.
    """
    ended = threading.Event()

    def redraw() -> None:
        while True:
            draw_page(state, is_live=True)
            if ended.wait(every_s):
                return

    thread = threading.Thread(target=redraw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        draw_page(state, is_live=False)


def draw_page(state: PageState, *, is_live: bool) -> None:
    """Draw the page; a failure is logged, as the page is no result.

    Args:
        state: What to show.
        is_live: Whether the page reloads itself.
    """
    try:
        _draw(state, is_live)
    except Exception as error:  # drawing must never end a training
        log.warning("the page could not be drawn: %s", " ".join(str(error).split()))


def _draw(state: PageState, is_live: bool) -> None:
    iterations, folds = state.current
    logs = {fold: read_training_log(state.folder.training(iterations, fold)) for fold in folds}
    best = best_round(state.rounds) if state.rounds else None
    labels = list(dict.fromkeys(label for one in state.rounds for label in one.label_means))
    if best is not None and state._slices[0] != best:
        state._slices = best, _slices(state, best)
    columns = ["steps", "Dice", "95 % interval", "minutes", *labels]
    write_page(
        state.folder.path / PAGE,
        _BODY,
        title=f"Fit of {state.dataset.name}",
        refresh_s=REFRESH_S if is_live else None,
        state=state.state,
        progress=next((one.progress for one in reversed(logs.values()) if one.progress), "") if is_live else "",
        expected=best.describe() if best else "",
        commands=state.commands,
        columns=columns,
        numeric=tuple(range(len(columns))),
        rounds=[_row(one, labels) for one in state.rounds],
        curves=[PagePicture(caption=f"{iterations} steps", png=_curves(logs))]
        if any(map(_has_epochs, logs.values()))
        else [],
        slices=state._slices[1],
    )


def _row(one: Round, labels: Sequence[str]) -> list[str]:
    low, high = one.interval
    means = one.label_means
    return [
        f"{one.iterations:,}" + (" with unlabelled scans" if one.is_enlarged else ""),
        f"{one.mean:.3f}",
        "" if isnan(low) else f"{low:.3f} to {high:.3f}",
        f"{one.seconds / 60:.1f}",
        *(f"{means[label]:.3f}" if label in means else "" for label in labels),
    ]


def _slices(state: PageState, best: Round) -> list[PagePicture]:
    """Draw the left-out scans of the best round, the worst first."""
    ending, pictures = state.dataset.description["file_ending"], []
    fold_of = {case: number for number, fold in enumerate(state.folder.folds()) for case in fold["val"]}
    folder = state.folder.variant(best.is_enlarged)
    means: dict[str, list[float]] = {}
    for one in best.dice:
        means.setdefault(one.case, []).append(one.dice)
    for case in sorted(means, key=lambda case: sum(means[case]))[:_MAX_SLICES]:
        files = state.dataset.cases[case]
        predicted = folder.training(best.iterations, fold_of[case]) / "validation" / f"{case}{ending}"
        dice = ", ".join(f"{one.label} {one.dice:.2f}" for one in best.dice if one.case == case)
        png = draw_slices(files["images"][0], [files["label"], predicted])
        pictures.append(PagePicture(caption=f"{case}: {dice}", png=png))
    return pictures


def _has_epochs(one: TrainingLog) -> bool:
    return bool(one.training_loss)


def _curves(logs: dict[FoldName, TrainingLog]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    losses, dice = figure.subplots(1, 2)
    for number, (fold, one) in enumerate(logs.items()):
        colour = f"C{number % 10}"
        name = "all scans" if fold == "all" else f"fold {fold}"
        losses.plot(list(one.training_loss), list(one.training_loss.values()), color=colour, label=name)
        if fold == "all":  # it has no left-out scans
            continue
        losses.plot(list(one.validation_loss), list(one.validation_loss.values()), color=colour, linestyle=":")
        dice.plot(list(one.patch_dice), list(one.patch_dice.values()), color=colour, marker=".")
    losses.set(xlabel="epoch", ylabel="loss (dotted: left-out scans)")
    dice.set(xlabel="epoch", ylabel="Dice on patches", ylim=(0, 1))
    for axis in (losses, dice):
        axis.grid(alpha=0.3)
    losses.legend(loc="upper right", fontsize=8)  # "best" warns on a busy machine
    canvas.draw()
    return encode_png(np.asarray(canvas.buffer_rgba())[..., :3] / 255)
