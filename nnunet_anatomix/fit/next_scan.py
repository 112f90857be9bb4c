"""Command ``next``: scans ranked by how much networks and atlases disagree on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, isnan
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from nnunet_anatomix.finetuning.dataset import find_dataset
from nnunet_anatomix.fit.fit import MARKER, fit_folder
from nnunet_anatomix.fit.folder import MODEL
from nnunet_anatomix.fit.predictions import Model, predict
from nnunet_anatomix.fit.slices import draw_slices
from nnunet_anatomix.propagation.folder import FolderSettings, find_scans, propagate_folder
from nnunet_anatomix.propagation.labelled_scans import LabelledScans
from nnunet_anatomix.propagation.propagate import Resources
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.scores.segmentation import dice_by_structure
from pretraining.common.device import has_bf16_units, resolve_device
from pretraining.common.errors import InputError
from pretraining.common.html_page import PagePicture, write_page
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder
from pretraining.common.tables import markdown_table, write_csv
from pretraining.imaging.label_files import label_map
from pretraining.imaging.scans import read_image

log = logging.getLogger(__name__)

TABLE, PAGE = "next.csv", "next.html"
_DRAWN = 8
_BODY = """
<h1>{{ title }}</h1>
<p>Label next: <strong>{{ first }}</strong></p>
<p class="faint">Scans in order of doubt: the mean of two ranks, by least agreement of the networks (mean Dice between
pairs, from 0 to 1) and by greatest difference to the registered labelled scans. Agreement of atlases is the mean Dice
between their vote and each.</p>
{{ parts.table(columns, rows, (1, 2, 3)) }}
<h2>Scan, then its labels by {{ voices }}</h2>
{{ parts.pictures(pictures, wide=true) }}
"""


@dataclass(frozen=True, kw_only=True)
class NextRequest:
    """Request of the command ``next``; None means the default of its help."""

    dataset: str
    images: Path
    out: Path | None = None
    atlases: bool = True
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """How doubtful the labels of one scan are.

    Attributes:
        case: Name of the scan.
        networks: Agreement of the networks in [0, 1]; None without a fit.
        difference: Difference of the scan and the registered labelled scans
            (:attr:`~nnunet_anatomix.propagation.propagate.Propagation.difference`), which predicts
            the Dice of propagated labels; None if atlases were left out.
        atlases: Agreement of the atlases in [0, 1]; None if they were left out.
    """

    case: str
    networks: float | None = None
    difference: float | None = None
    atlases: float | None = None


def most_doubtful_first(doubts: Sequence[Doubt]) -> list[Doubt]:
    """Sort scans by the mean of two ranks: least agreement of networks, greatest difference.

    A measure that is missing for all scans has no rank. Of equal scans, the one on which networks
    agree least comes first.
    """
    networks = [0.0 if one.networks is None else one.networks for one in doubts]
    likeness = [-inf if one.difference is None or isnan(one.difference) else -one.difference for one in doubts]
    ranks = rankdata(networks) + rankdata(likeness)
    return [doubts[index] for index in np.lexsort((networks, ranks))]


def rank_scans(request: NextRequest) -> list[Doubt]:
    """Rank scans without labels, the one to label next first.

    Args:
        request: What to do.

    Returns:
        All scans of the folder that are not labelled yet.

    Raises:
        InputError: If dataset or folder cannot be used, or there is neither a fit nor atlases.
        CommandFailed: If a command fails, or scans fail.
        InUse: If another process writes into the folder.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    scans = LabelledScans(dataset=find_dataset(request.dataset))
    model = fit_folder(scans.dataset.name).path.parent / MODEL
    folds = _folds(model)
    if not folds and not request.atlases:
        raise InputError(
            f"--no-atlases needs networks, but {scans.dataset.name} has no fit; "
            f"run: nnunet-anatomix fit -d {request.dataset}"
        )
    inputs = find_scans(request.images, scans)
    labelled = sorted(set(inputs) & set(scans.names))
    inputs = {case: files for case, files in inputs.items() if case not in labelled}
    if not inputs:
        raise InputError(f"-i: all {len(labelled)} scans of {request.images} are labelled already; give others")
    out = request.out or model.parent / "next"
    try_folder(out)
    device = resolve_device("cpu" if request.device == "mps" else request.device)
    with hold_lock(out):
        voices: dict[str, Path] = {}
        networks: dict[str, float] = {}
        if folds:
            networks_of = Model(
                dataset=scans.dataset.name,
                results=model.parents[1],
                version=(model / MARKER).read_text(encoding="utf-8"),
                device=device.type,
                ending=scans.description.file_ending,
            )
            single = {f"network_{fold}": [fold] for fold in folds}
            voices |= {
                name.replace("_", " "): folder
                for name, folder in predict(networks_of, single, request.images, inputs, out).items()
            }
            networks = {case: _agreement(scans, case, list(voices.values())) for case in inputs}
        records: dict[str, dict] = {}
        if request.atlases:
            settings = FolderSettings(
                preset="fast",
                fusion="local",
                descriptors=DescriptorConfig(feature_weight=0.0, bf16=has_bf16_units(device)),
                resources=Resources(clips=scans.clips, device=device),
            )
            voices["atlases"] = out / "atlases"
            records = propagate_folder(scans, inputs, voices["atlases"], settings)
        ranked = most_doubtful_first(
            [
                Doubt(
                    case=case,
                    networks=networks.get(case),
                    difference=records[case]["difference"] if records else None,
                    atlases=records[case]["agreement"] if records else None,
                )
                for case in inputs
            ]
        )
        _report(scans, ranked, inputs, voices, out)
    return ranked


def pairwise_agreement(maps: Sequence[np.ndarray], structures: Mapping[str, tuple[int, ...]]) -> float:
    """Compute the mean Dice between all pairs of label maps.

    Args:
        maps: (X, Y, Z) label maps on one grid, at least two.
        structures: Structures to compare.

    Returns:
        Mean over structures and pairs, in [0, 1]; 0 if no map has any structure.
    """
    dice = [
        value
        for one, other in combinations(maps, 2)
        for value in dice_by_structure(one, other, structures).values()
        if not isnan(value)
    ]
    return float(np.mean(dice)) if dice else 0.0


def _folds(model: Path) -> list[str]:
    if not (model / MARKER).is_file():
        return []
    names = (path.parent.name.removeprefix("fold_") for path in model.glob("fold_*/checkpoint_final.pth"))
    return sorted(name for name in names if name.isdigit())


def _agreement(scans: LabelledScans, case: str, folders: Sequence[Path]) -> float:
    files = [folder / f"{case}{scans.description.file_ending}" for folder in folders]
    return pairwise_agreement(
        [label_map(read_image(file, "prediction")).labels for file in files], scans.description.foreground
    )


def _format(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _report(
    scans: LabelledScans,
    ranked: Sequence[Doubt],
    inputs: Mapping[str, list[Path]],
    voices: Mapping[str, Path],
    out: Path,
) -> None:
    columns = ["case", "agreement of networks", "difference to atlases", "agreement of atlases"]
    rows = [[one.case, _format(one.networks, 3), _format(one.difference, 5), _format(one.atlases, 3)] for one in ranked]
    write_csv(out / TABLE, columns, rows)
    ending = scans.description.file_ending
    pictures = [
        PagePicture(
            caption=one.case,
            png=draw_slices(inputs[one.case][0], [folder / f"{one.case}{ending}" for folder in voices.values()]),
        )
        for one in ranked[:_DRAWN]
    ]
    write_page(
        out / PAGE,
        _BODY,
        title=f"Which scan of {scans.dataset.name} to label next",
        first=ranked[0].case,
        columns=columns,
        rows=rows,
        voices=", ".join(voices),
        pictures=pictures,
    )
    log.info("%s", markdown_table(columns, rows[:_DRAWN]))
    log.info("label next: %s; see %s", ranked[0].case, out / PAGE)
