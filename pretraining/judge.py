"""Whether features ignore appearance and keep anatomy: judged on real images of one body in several modalities, features alone.

T1 → T2 and T1 → PD of the brain are for choosing settings and weights. T1 → CT, of the brain and of limbs, is only reported: nothing may
be tuned on it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretraining.aligned import COUNT, AlignedImages, aligned_images
from pretraining.atomic import write_text
from pretraining.backbone.unet import UNet
from pretraining.backbone.weights import Weights
from pretraining.correspondence import nearest_rate, separation, similarity
from pretraining.engine.seeds import sample_generator
from pretraining.inference import whole_volume_features
from pretraining.learning.initialization import build
from pretraining.mind import mind_ssc

log = logging.getLogger(__name__)

Features = Callable[[Tensor], Tensor]
"""From an image, (X, Y, Z) float32 of any range, to its features, (C, X, Y, Z), on any device."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one kind of features reaches from one modality to another.

    Attributes
    ----------
    features : name of the kind of features.
    collection, subject : of the images; a mean over several subjects says how many.
    first, second : modalities.
    for_choosing : whether settings may be chosen by it; otherwise it is only reported.
    place : what counts as the same place.
    nearest : see :func:`pretraining.correspondence.nearest_rate`.
    separation : see :func:`pretraining.correspondence.separation`; by chance 1/2.
    chance : ``nearest`` of features that know nothing.
    """

    features: str
    collection: str
    subject: str
    first: str
    second: str
    for_choosing: bool
    place: str
    nearest: float
    separation: float
    chance: float


def network_features(net: UNet, device: torch.device | str = "cpu") -> Features:
    """Output features of a network, moved to ``device`` and evaluated there in whole volumes; its mode is put back."""
    device = torch.device(device)

    def features(image: Tensor) -> Tensor:
        training = net.training
        net.to(device).eval()
        try:
            return whole_volume_features(net, image.to(device))
        finally:
            net.train(training)

    return features


def contenders(weights: Weights, *, name: str = "weights", seed: int = 0, device: torch.device | str = "cpu") -> dict[str, Features]:
    """The features of ``weights`` beside what they must beat: the same network at random, and MIND-SSC (radius 1, dilation 2)."""
    random = build(lambda: UNet(weights.architecture), sample_generator(seed, 0, "initial weights"))
    return {
        "random init": network_features(random, device),
        "MIND-SSC": lambda image: mind_ssc(image.to(device)),
        name: network_features(weights.network(), device),
    }


def judge(features: Mapping[str, Features], subjects: Iterable[AlignedImages]) -> list[Score]:
    """Score each kind of features on each subject.

    To choose among many checkpoints, read the brain once and leave the rest out::

        brain = read_brain(folder, ("t2", "pd"))
        scores = judge({"candidate": network_features(net)}, [brain])

    Parameters
    ----------
    features : name → features; computed once for each image.
    subjects : from :func:`pretraining.aligned.aligned_images`, say.

    Returns
    -------
    A score for each subject, kind of features and pair of modalities.
    """
    scores: list[Score] = []
    for subject in subjects:
        modalities = {modality for crossing in subject.crossings for modality in (crossing.first, crossing.second)}
        for name, extract in features.items():
            drawn = {modality: _at(extract(subject.images[modality]), subject.voxels) for modality in sorted(modalities)}
            for crossing in subject.crossings:
                cosines = similarity(drawn[crossing.first], drawn[crossing.second])
                same = subject.same.to(cosines.device)
                scores.append(
                    Score(
                        features=name,
                        collection=subject.collection,
                        subject=subject.subject,
                        first=crossing.first,
                        second=crossing.second,
                        for_choosing=crossing.for_choosing,
                        place=subject.place,
                        nearest=nearest_rate(cosines, same),
                        separation=separation(cosines, same),
                        chance=same.float().mean().item(),
                    )
                )
        log.info("judged %s %s", subject.collection, subject.subject)
    return scores


def averaged(scores: Iterable[Score]) -> list[Score]:
    """Means over the subjects of each collection, in the order of first appearance."""
    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.collection, score.first, score.second, score.features), []).append(score)

    def mean(group: list[Score]) -> Score:
        numbers = {name: sum(getattr(score, name) for score in group) / len(group) for name in ("nearest", "separation", "chance")}
        return replace(group[0], subject=group[0].subject if len(group) == 1 else f"mean of {len(group)}", **numbers)

    return [mean(group) for group in groups.values()]


def table(scores: Iterable[Score]) -> str:
    """A Markdown table of ``averaged(scores)``: a row for each pair of modalities, for each kind of features nearest / separation."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    columns: dict[str, None] = {}
    for score in averaged(scores):
        purpose = "for choosing" if score.for_choosing else "only reported"
        pair = f"{score.first.upper()} → {score.second.upper()}"
        row = rows.setdefault((f"{score.collection}, {score.subject}", pair, score.place, purpose, f"{score.chance:.3f}"), {})
        row[score.features] = f"{score.nearest:.3f} / {score.separation:.3f}"
        columns[score.features] = None
    lines = [("images", "pair", "nearest neighbour", "use", "chance", *columns)]
    lines += [(*row, *(cells[column] for column in columns)) for row, cells in rows.items()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    written = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    written.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(written)


def judge_weights(
    weights: Weights, data: Path, *, name: str = "weights", count: int = COUNT, seed: int = 0, device: torch.device | str = "cpu"
) -> list[Score]:
    """Score ``weights``, a random network and MIND-SSC on all that there is under ``data``.

    Raises
    ------
    InputError
        If nothing is there, or files don't fit each other (see :func:`pretraining.aligned.aligned_images`).
    """
    return judge(contenders(weights, name=name, seed=seed, device=device), aligned_images(data, count=count, seed=seed))


def write_scores(path: Path, scores: list[Score], **about: Any) -> None:
    """Write means and every subject's scores as JSON, with what else there is to say ``about`` them; whole or not at all."""
    document = {**about, "scores": [asdict(score) for score in averaged(scores)], "subjects": [asdict(score) for score in scores]}
    write_text(path, json.dumps(document, indent=1) + "\n")


def _at(features: Tensor, voxels: Tensor) -> Tensor:
    """(N, C) features of the drawn voxels."""
    return features.flatten(1)[:, voxels.to(features.device)].T.float()
