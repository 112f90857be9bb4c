"""Judge whether features ignore appearance and keep anatomy, on real images of one body in several modalities, without any training.

The second image is laid into three frames: as it is, behind an empty margin, and turned and scaled.
Images on one grid share the place in the frame as well as the anatomy, so that only the other two
frames tell whether features depend on the anatomy.

T1 → T2 and T1 → PD of the brain are for choosing settings and weights. T1 → CT, of the brain and of
limbs, is only reported: nothing may be tuned on it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretraining.backbone.inference import whole_volume_features
from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNet
from pretraining.backbone.weights import Weights
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.atomic import write_text
from pretraining.common.finite import require_finite
from pretraining.common.random import sample_generator
from pretraining.common.tables import markdown_table
from pretraining.common.triple import triple
from pretraining.engine.synthesis import EngineConfig, synthesize_pair
from pretraining.imaging.mind import mind_ssc
from pretraining.learning.objectives.moved_views import common_box, move_views
from pretraining.learning.objectives.sampling import sample_positions
from pretraining.probing.aligned import COUNT, AlignedImages, ModalityPair, read_aligned_images
from pretraining.probing.correspondence import nearest_rate, separation, similarity
from pretraining.probing.frames import FRAMES, Frame
from pretraining.probing.local_rate import CANDIDATES, features_of, local_rate
from pretraining.templates.procedural import procedural_bank

log = logging.getLogger(__name__)

SAMPLE_SIDE, SAMPLE_SHIFT, SAMPLE_ANCHORS = 96, 32, 384
"""Voxels of a judged sample, of the shift between its views, whose windows have 64, and places that
are sought.
"""

Features = Callable[[Tensor], Tensor]
"""From an image, (X, Y, Z) float32 of any range, to its features, (C, X, Y, Z), on any device."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one kind of features reaches from one modality to another.

    Attributes:
        features: Name of the kind of features.
        collection: Name of the images' collection.
        subject: Name of the subject; a mean over several subjects says how many.
        first: Modality of the first image.
        second: Modality of the second image.
        frame: How the second image lies in its frame, see
            :data:`pretraining.probing.frames.FRAMES`.
        for_choosing: Whether settings may be chosen by it; otherwise it is only reported.
        place: What counts as the same place.
        nearest: See :func:`pretraining.probing.correspondence.nearest_rate`.
        separation: See :func:`pretraining.probing.correspondence.separation`; by chance 1/2.
        local: See :func:`pretraining.probing.local_rate.local_rate`; by chance 1/125.
        chance: ``nearest`` of features that know nothing.
    """

    features: str
    collection: str
    subject: str
    first: str
    second: str
    frame: str
    for_choosing: bool
    place: str
    nearest: float
    separation: float
    local: float
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


def contenders(
    weights: Weights, *, name: str = "weights", seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Features]:
    """The features of ``weights`` beside what they must beat: the same network at random, and MIND-SSC (radius 1, dilation 2)."""
    random = build(lambda: UNet(weights.architecture), sample_generator(seed, 0, "initial weights"))
    return {
        "random init": network_features(random, device),
        "MIND-SSC": lambda image: mind_ssc(image.to(device)),
        name: network_features(weights.network(), device),
    }


def judge(
    features: Mapping[str, Features], subjects: Iterable[AlignedImages], frames: Sequence[Frame] = FRAMES
) -> list[Score]:
    """Score each kind of features on each subject.

    To choose among many checkpoints, read the brain once and leave the rest out::

        brain = read_brain(folder, ("t2", "pd"))
        scores = judge({"candidate": network_features(net)}, [brain], frames=[MOVED])

    Args:
        features: Name → features; computed once for each image and frame.
        subjects: From :func:`pretraining.probing.aligned.read_aligned_images`, say.
        frames: How the second image is laid.

    Returns:
        A score for each subject, kind of features, pair of modalities and frame.
    """
    scores: list[Score] = []
    for subject in subjects:
        for name, extract in features.items():
            first_of: dict[str, Tensor] = {}
            for crossing in subject.crossings:
                if crossing.first not in first_of:
                    first_of[crossing.first] = extract(subject.images[crossing.first])
                    require_finite(
                        first_of[crossing.first], f"features {name} of {crossing.first} of {subject.subject}"
                    )
                scores += [
                    _score(name, extract, subject, crossing, first_of[crossing.first], frame) for frame in frames
                ]
        log.info("judged %s %s", subject.collection, subject.subject)
    return scores


def _score(
    name: str, extract: Features, subject: AlignedImages, crossing: ModalityPair, first: Tensor, frame: Frame
) -> Score:
    image = subject.images[crossing.second]
    second = extract(frame.lay(image))
    require_finite(second, f"features {name} of {crossing.second} of {subject.subject}")
    places = torch.stack(torch.unravel_index(subject.voxels, tuple(image.shape)), dim=1)
    counterparts, inside = frame.places(places, triple(image.shape))
    places, counterparts = places[inside], counterparts[inside]
    cosines = similarity(features_of(first, places), features_of(second, counterparts))
    same = subject.same[inside][:, inside].to(cosines.device)
    return Score(
        features=name,
        collection=subject.collection,
        subject=subject.subject,
        first=crossing.first,
        second=crossing.second,
        frame=frame.name,
        for_choosing=crossing.for_choosing,
        place=subject.place,
        nearest=nearest_rate(cosines, same),
        separation=separation(cosines, same),
        local=local_rate(first, second, places, counterparts),
        chance=same.float().mean().item(),
    )


@torch.no_grad()
def judge_samples(
    features: Mapping[str, Features], bank: TemplateBank, *, count: int = 12, seed: int = 0
) -> dict[str, float]:
    """Local rate on synthetic samples, whose two views differ in appearance and are shifted against each other.

    Args:
        features: Name → features.
        bank: Organ templates that samples are made of.
        count: Samples.
        seed: Of the samples.

    Returns:
        Name → mean local rate over the samples.
    """
    rates: dict[str, list[float]] = {name: [] for name in features}
    engine = EngineConfig(side=SAMPLE_SIDE)
    for index in range(count):
        generator = sample_generator(seed, index, "judged sample")
        moved = move_views(synthesize_pair(bank, engine, seed=seed, index=index), SAMPLE_SHIFT, generator)
        box = common_box(moved, level=0)
        drawn = sample_positions(box.labels, SAMPLE_ANCHORS, balanced_share=0.5, generator=generator)
        places = box.places(drawn)
        for name, extract in features.items():
            first, second = (extract(view) for view in moved.views)
            require_finite({"view 1": first, "view 2": second}, f"features {name} of synthetic samples")
            rates[name].append(local_rate(first, second, places, box.counterparts(places).long()))
    return {name: sum(values) / len(values) for name, values in rates.items()}


def mean_scores(scores: Iterable[Score]) -> list[Score]:
    """Means over the subjects of each collection, in the order of first appearance."""
    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.collection, score.first, score.second, score.frame, score.features), []).append(score)

    def mean(group: list[Score]) -> Score:
        numbers = {
            name: sum(getattr(score, name) for score in group) / len(group)
            for name in ("nearest", "separation", "local", "chance")
        }
        return replace(group[0], subject=group[0].subject if len(group) == 1 else f"mean of {len(group)}", **numbers)

    return [mean(group) for group in groups.values()]


def table(scores: Iterable[Score], samples: Mapping[str, float] | None = None) -> str:
    """A Markdown table of ``averaged(scores)``.

    Args:
        scores: From :func:`judge`.
        samples: From :func:`judge_samples`; one more row.

    Returns:
        A row for each pair of modalities and frame, a column for each kind of features: nearest /
            separation / local.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    columns: dict[str, None] = {}
    for score in mean_scores(scores):
        purpose = "for choosing" if score.for_choosing else "only reported"
        pair = f"{score.first.upper()} → {score.second.upper()}"
        about = (f"{score.collection}, {score.subject}", pair, score.frame, score.place, purpose, f"{score.chance:.3f}")
        rows.setdefault(about, {})[score.features] = f"{score.nearest:.3f} / {score.separation:.3f} / {score.local:.3f}"
        columns[score.features] = None
    if samples:
        columns |= dict.fromkeys(samples)
        about = (
            "synthetic samples",
            "view 1 → view 2",
            "moved",
            "the same voxel",
            "for choosing",
            f"{1 / CANDIDATES:.3f}",
        )
        rows[about] = {name: f"– / – / {rate:.3f}" for name, rate in samples.items()}
    header = ("images", "pair", "frame", "nearest neighbour", "use", "chance", *columns)
    return markdown_table(
        header, ((*row, *(cells.get(column, "–") for column in columns)) for row, cells in rows.items())
    )


def judge_weights(
    weights: Weights,
    data: Path,
    *,
    name: str = "weights",
    count: int = COUNT,
    seed: int = 0,
    device: torch.device | str = "cpu",
    frames: Sequence[Frame] = FRAMES,
    bank: TemplateBank | None = None,
) -> tuple[list[Score], dict[str, float]]:
    """Score ``weights``, a random network and MIND-SSC on all that there is under ``data``, and on synthetic samples.

    Args:
        weights: A backbone.
        data: See :func:`pretraining.probing.aligned.read_aligned_images`.
        name: Of the weights, in the scores.
        count: Voxels drawn in each subject.
        seed: Of the drawing, the random network and the samples.
        device: Where features are computed.
        frames: How the second image is laid.
        bank: Organ templates of the samples; procedural shapes if left out.

    Returns:
        Scores on images, and the local rate on samples of each kind of features.

    Raises:
        InputError: If nothing is there, or files don't fit each other (see
            :func:`pretraining.probing.aligned.read_aligned_images`).
    """
    features = contenders(weights, name=name, seed=seed, device=device)
    scores = judge(features, read_aligned_images(data, count=count, seed=seed), frames)
    return scores, judge_samples(features, bank or procedural_bank(), seed=seed)


def write_scores(path: Path, scores: list[Score], **about: Any) -> None:
    """Write means and every subject's scores as JSON, with what else there is to say ``about`` them; whole or not at all."""
    document = {
        **about,
        "scores": [asdict(score) for score in mean_scores(scores)],
        "subjects": [asdict(score) for score in scores],
    }
    write_text(path, json.dumps(document, indent=1) + "\n")
