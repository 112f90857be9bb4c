"""Draw budgets.png: Dice over the number of steps, from the rows in docs/results.

docs/results.md has the commands that made the rows.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

RESULTS = Path(__file__).parents[1] / "results"
STARTS = {"weights": ("pretrained (ours)", "#e15759"), "stock": ("stock nnU-Net", "#4e79a7")}
FILES = {
    "Hippocampus, 3 labelled scans, 27 test scans": {
        100: ("study_901_100.csv",),
        250: ("study_901.csv",),
        1000: ("study_901_1000.csv",),
    },
    "Fetal brain, 3 labelled scans, 7 test scans": {
        100: ("study_902_recipe.csv", "study_902.csv"),
        250: ("study_902_250.csv",),
    },
}
"""Panel → steps → files; of several, the first that has a start counts."""


def seed_means(files: tuple[str, ...], start: str) -> list[float]:
    """Return the mean Dice of each seed, over scans and labels."""
    for name in files:
        found = defaultdict(list)
        with (RESULTS / name).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["start"] == start:
                    found[row["seed"]].append(float(row["dice"]))
        if found:
            return [float(np.mean(values)) for values in found.values()]
    return []


def main() -> None:
    """Draw to the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, (title, budgets) in zip(figure.subplots(1, len(FILES), sharey=True), FILES.items(), strict=True):
        for start, (name, colour) in STARTS.items():
            seeds = {steps: values for steps, files in budgets.items() if (values := seed_means(files, start))}
            axis.plot(list(seeds), [np.mean(values) for values in seeds.values()], color=colour, label=name, lw=2)
            for steps, values in seeds.items():
                axis.plot([steps], [np.mean(values)], "o", color=colour, ms=8)
                axis.plot([steps] * len(values), values, "o", color=colour, ms=4, alpha=0.5)
                away = (0, 9) if start == "weights" else (0, -17)  # outside the two lines
                axis.annotate(
                    f"{np.mean(values):.2f}", (steps, np.mean(values)), away, textcoords="offset points", ha="center"
                )
        axis.set(title=title, xscale="log", xlabel="training steps", ylim=(0, 1), xlim=(80, 1250))
        axis.xaxis.set_major_locator(FixedLocator(list(budgets)))
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("Dice")
    figure.axes[0].legend(loc="lower right", frameon=False)
    figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
