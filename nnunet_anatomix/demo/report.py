"""Report of the demo: one page with pictures, Dice, and the commands for one's own data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_anatomix.demo.anatomy import ORGANS
from nnunet_anatomix.demo.dataset import TEST_CASES, TRAINING_CASES, Pair
from nnunet_anatomix.demo.pictures import COLOURS, draw_cases, draw_registration
from nnunet_anatomix.scores.overlap import dice_by_label
from pretraining.common.atomic import atomic_write
from pretraining.common.html_page import PagePicture, write_page
from pretraining.common.tables import write_csv

REPORT = "report.html"
_COMMANDS = """# segment: three or more labelled scans as nnUNet_raw/Dataset123_MyOrgan (docs: tutorial)
nnunet-anatomix plan-and-preprocess -d 123
nnUNetv2_train 123 3d_fullres all -p nnUNetAnatomixPlans -tr AnatomixTrainer
nnUNetv2_predict -i IMAGES -o OUT -d 123 -c 3d_fullres -f all -p nnUNetAnatomixPlans -tr AnatomixTrainer
# segment without training
nnunet-anatomix propagate -d 123 -i IMAGES -o OUT
# register two scans of any modality
nnunet-anatomix register --fixed ct.nii.gz --moving mr.nii.gz --fixed-clip -450 450 --out mr_on_ct"""
_TEMPLATE = """
<h1>{{ title }}</h1>
<p>Everything here is synthetic: it proves that the installation works and shows the steps. How accurate the method is
on real scans is in the documentation, under Results.</p>

<h2>Segmentation: {{ training }} labelled scans, {{ iterations }} steps</h2>
<p>One network starts from weights that were pretrained on synthetic shapes, one from random weights. Both take the same
steps on the same scans. Here they segment {{ tests }} subjects that they have not seen. Coronal slices that together
show every organ; the patient's right is on the left.</p>
{{ legend }}
{{ parts.pictures([overview]) }}
{{ parts.table(["Dice", "pretrained", "from scratch"], dice, numeric=(1, 2)) }}

<h2>Registration: a T2 scan onto the T1 scan of another subject</h2>
<p>Lines are the organs of the fixed scan: after the registration, the organs of the moving scan lie inside them.
<a href="registration/registration.html">The registration's own report</a> has its verdict, more views and the
displacement.</p>
{{ parts.pictures([registration]) }}
{{ parts.table(["Dice", "before", "after"], registered, numeric=(1, 2)) }}

<h2>The same with your own data</h2>
<div class="scroll"><pre>{{ commands }}</pre></div>
<p class="faint">{{ seconds }} s in total; every command with its output is in <a href="log.txt">log.txt</a>. Dice is
the overlap of two structures: 1 if they are equal, 0 if they are apart.</p>
"""
_STYLE = """<style>.pictures { grid-template-columns: 1fr !important; } figure img { max-width: 62rem; }
pre { font-size: .85rem; line-height: 1.5; } .key { display: inline-block; margin: 0 1rem .3rem 0; }
.key i { display: inline-block; width: .9em; height: .9em; border-radius: .2em; margin-right: .4em; }</style>
"""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Volumes and scores of a demo.

    Attributes:
        cases: Subject → (Z, Y, X) scan, truth, and prediction of each start.
        dice: Start → organ → mean Dice over the subjects.
        fixed: (Z, Y, X) fixed scan and its labels.
        moving: (Z, Y, X) moving scan before and after registration.
        registered: ``before`` and ``after`` → organ → Dice of the moved labels.
    """

    cases: Mapping[str, list[np.ndarray]]
    dice: Mapping[str, Mapping[str, float]]
    fixed: tuple[np.ndarray, np.ndarray]
    moving: tuple[np.ndarray, np.ndarray]
    registered: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, raw: Path, predictions: Mapping[str, Path], pair: Pair, registration: Path) -> Findings:
        """Read what the commands of a demo wrote.

        Args:
            raw: Folder of the dataset.
            predictions: Start → folder of its predictions.
            pair: Files of the pair.
            registration: Output folder of the registration.
        """
        names = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTs").glob("*.nii.gz"))
        cases = {
            name.replace("_", " "): [
                _read(raw / "imagesTs" / f"{name}_0000.nii.gz"),
                _read(raw / "labelsTs" / f"{name}.nii.gz"),
                *(_read(folder / f"{name}.nii.gz") for folder in predictions.values()),
            ]
            for name in names
        }
        dice = {
            start: _mean([_dice(volumes[1], volumes[2 + number]) for volumes in cases.values()])
            for number, start in enumerate(predictions)
        }
        truth = _read(pair.fixed_labels)
        registered = {
            "before": _dice(truth, _read(pair.moving_labels)),
            "after": _dice(truth, _read(registration / "moved_labels.nii.gz")),
        }
        return cls(
            cases=cases,
            dice=dice,
            fixed=(_read(pair.fixed), truth),
            moving=(_read(pair.moving), _read(registration / "moved.nii.gz")),
            registered=registered,
        )

    def mean_dice(self, start: str) -> float:
        """Return the mean Dice over all organs of the segmentations of a start."""
        return float(np.mean(list(self.dice[start].values())))

    def mean_registered(self, when: str) -> float:
        """Return the mean Dice over all organs, ``before`` or ``after`` registration."""
        return float(np.mean(list(self.registered[when].values())))


def write_report(out: Path, findings: Findings, *, iterations: int, seconds: float) -> None:
    """Write ``report.html``, its pictures, and the table ``dice.csv``.

    Args:
        out: Folder of the demo.
        findings: Volumes and scores.
        iterations: Optimizer steps of each training.
        seconds: Duration of the demo, seconds.
    """
    starts = list(findings.dice)
    with atomic_write(out / "overview.png") as partial:
        draw_cases(partial, findings.cases, ("truth", *starts))
    with atomic_write(out / "registration.png") as partial:
        moving = dict(zip(("moving scan (T2), before", "moving scan, after"), findings.moving, strict=True))
        draw_registration(partial, *findings.fixed, moving)
    rows = [[organ, *(findings.dice[start][organ] for start in starts)] for organ in ORGANS]
    write_csv(out / "dice.csv", ["organ", *starts], rows)
    write_page(
        out / REPORT,
        _STYLE + _TEMPLATE,
        title="Demo of nnunet-anatomix",
        training=TRAINING_CASES,
        tests=TEST_CASES,
        iterations=iterations,
        legend=_legend(),
        overview=PagePicture(
            caption="Scan, true organs, and segmentations by both networks.", png=(out / "overview.png").read_bytes()
        ),
        dice=_table(findings.dice),
        registration=PagePicture(
            caption="Fixed scan, and moving scan before and after registration, with the organs of the fixed scan.",
            png=(out / "registration.png").read_bytes(),
        ),
        registered=_table(findings.registered),
        commands=_COMMANDS,
        seconds=round(seconds),
    )


def _legend() -> str:
    from markupsafe import Markup

    key = Markup('<span class="key"><i style="background:{}"></i>{}</span>')
    return Markup("<p>{}</p>").format(Markup("").join(key.format(*pair) for pair in zip(COLOURS, ORGANS, strict=True)))


def _table(scores: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    rows = [[organ, *(f"{score[organ]:.2f}" for score in scores.values())] for organ in ORGANS]
    return [*rows, ["mean", *(f"{np.mean(list(score.values())):.2f}" for score in scores.values())]]


def _dice(truth: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    scores = dice_by_label(truth, labels)
    return {organ: scores.get(label, 0.0) for label, organ in enumerate(ORGANS, start=1)}


def _mean(scores: list[dict[str, float]]) -> dict[str, float]:
    return {organ: float(np.mean([score[organ] for score in scores])) for organ in ORGANS}


def _read(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
