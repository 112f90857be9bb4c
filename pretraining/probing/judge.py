"""Evaluate whether features ignore appearance and keep anatomy, on real multi-modality images.

The second image is placed in three frames: unchanged, behind an empty margin, and rotated and
scaled. Images on one grid share the position in the frame as well as the anatomy. Only the other
two frames show whether features depend on the anatomy.

T1 → T2 and T1 → PD of the brain are for choosing settings and weights. T1 → CT, of the brain and of
limbs, is only reported: nothing may be tuned on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pretraining.backbone.external import fit_window_side
from pretraining.backbone.feature_network import FeatureNetwork, FeatureWeights
from pretraining.backbone.inference import sliding_window_features, whole_volume_features
from pretraining.backbone.inference_memory import LARGEST_SIDE
from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.finite import require_finite
from pretraining.common.random import sample_generator
from pretraining.common.triple import triple
from pretraining.engine.synthesis import EngineConfig, synthesize_pair
from pretraining.imaging.mind import mind_ssc
from pretraining.learning.objectives.moved_views import common_box, move_views
from pretraining.learning.objectives.sampling import sample_positions
from pretraining.probing.aligned import COUNT, AlignedImages, ModalityPair, read_aligned_images
from pretraining.probing.correspondence import nearest_rate, separation, similarity
from pretraining.probing.frames import FRAMES, Frame
from pretraining.probing.local_rate import gather_features, local_rate
from pretraining.probing.scores import Score
from pretraining.templates.procedural import procedural_bank

log = logging.getLogger(__name__)

SAMPLE_SIDE, SAMPLE_SHIFT, SAMPLE_ANCHORS = 96, 32, 384
"""Side of a sample, voxels; shift between its views, voxels, whose windows have 64; and number of
locations to match.
"""

_OVERLAP = 0.5
"""Overlap of neighbouring windows, share of their side."""

Features = Callable[[Tensor], Tensor]
"""Function from a (X, Y, Z) float32 image of any range to its (C, X, Y, Z) features."""


def network_features(net: FeatureNetwork, device: torch.device | str = "cpu") -> Features:
    """Return the function that computes a network's output features of whole volumes.

    Networks with a fixed size compute them in windows.

    Args:
        net: Network, moved to ``device`` by each call; its mode is restored.
        device: Device of the computation.
    """
    device = torch.device(device)

    def features(image: Tensor) -> Tensor:
        if not isinstance(net, UNet):
            net.to(device).eval()
            side = fit_window_side(net, LARGEST_SIDE)
            return sliding_window_features(net, image.to(device), side=side, overlap=_OVERLAP)
        training = net.training
        net.to(device).eval()
        try:
            return whole_volume_features(net, image.to(device))
        finally:
            net.train(training)

    return features


def make_feature_extractors(
    weights: FeatureWeights, *, name: str = "weights", seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Features]:
    """Return, by name, the features of ``weights`` and of two baselines.

    The baselines are a randomly initialized network and MIND-SSC (radius 1, dilation 2).

    Args:
        weights: Weights of a backbone or of another network; the random network is then a
            backbone of the default architecture.
        name: Name of the weights' features.
        seed: Seed of the random network.
        device: Device of the computation.
    """
    architecture = weights.architecture if isinstance(weights.architecture, UNetConfig) else UNetConfig()
    random = build(lambda: UNet(architecture), sample_generator(seed, 0, "initial weights"))
    return {
        "random init": network_features(random, device),
        "MIND-SSC": lambda image: mind_ssc(image.to(device)),
        name: network_features(weights.network(), device),
    }


def judge(
    features: Mapping[str, Features], subjects: Iterable[AlignedImages], frames: Sequence[Frame] = FRAMES
) -> list[Score]:
    """Score each kind of features on each subject.

    To choose among many checkpoints, read only the brain, once::

        brain = read_brain(folder, ("t2", "pd"))
        scores = judge({"candidate": network_features(net)}, [brain], frames=[MOVED])

    Args:
        features: Feature functions by name; called once for each image and frame.
        subjects: Images, e.g. from :func:`pretraining.probing.aligned.read_aligned_images`.
        frames: Frames of the second image.

    Returns:
        One score for each subject, kind of features, pair of modalities and frame.
    """
    scores: list[Score] = []
    for subject in subjects:
        for name, extract in features.items():
            first_features: dict[str, Tensor] = {}
            for pair in subject.modality_pairs:
                if pair.first not in first_features:
                    first_features[pair.first] = extract(subject.images[pair.first])
                    require_finite(first_features[pair.first], f"features {name} of {pair.first} of {subject.subject}")
                scores += [_score(name, extract, subject, pair, first_features[pair.first], frame) for frame in frames]
        log.info("judged %s %s", subject.collection, subject.subject)
    return scores


def _score(
    name: str, extract: Features, subject: AlignedImages, pair: ModalityPair, first: Tensor, frame: Frame
) -> Score:
    image = subject.images[pair.second]
    second = extract(frame.apply(image))
    require_finite(second, f"features {name} of {pair.second} of {subject.subject}")
    places = torch.stack(torch.unravel_index(subject.voxels, tuple(image.shape)), dim=1)
    counterparts, inside = frame.map_voxels(places, triple(image.shape))
    places, counterparts = places[inside], counterparts[inside]
    cosines = similarity(gather_features(first, places), gather_features(second, counterparts))
    same = subject.same[inside][:, inside].to(cosines.device)
    return Score(
        features=name,
        collection=subject.collection,
        subject=subject.subject,
        first=pair.first,
        second=pair.second,
        frame=frame.name,
        for_choosing=pair.for_choosing,
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
    """Compute the local rate on synthetic samples, whose views differ in appearance and position.

    Args:
        features: Feature functions by name.
        bank: Organ templates of the samples.
        count: Number of samples.
        seed: Seed of the samples.

    Returns:
        Mean local rate over the samples, by name of the features.
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


def judge_weights(
    weights: FeatureWeights,
    data: Path,
    *,
    name: str = "weights",
    count: int = COUNT,
    seed: int = 0,
    device: torch.device | str = "cpu",
    frames: Sequence[Frame] = FRAMES,
    bank: TemplateBank | None = None,
) -> tuple[list[Score], dict[str, float]]:
    """Score ``weights``, a random network and MIND-SSC on real images and synthetic samples.

    Args:
        weights: Weights of a backbone or of another network.
        data: Folder of images, see :func:`pretraining.probing.aligned.read_aligned_images`.
        name: Name of the weights in the scores.
        count: Number of voxels drawn per subject.
        seed: Seed of the drawing, the random network and the samples.
        device: Device of the computation.
        frames: Frames of the second image.
        bank: Organ templates of the samples. Default: procedural shapes.

    Returns:
        Scores on images, and the local rate on samples of each kind of features.

    Raises:
        InputError: If there are no images or files do not fit each other.
    """
    features = make_feature_extractors(weights, name=name, seed=seed, device=device)
    scores = judge(features, read_aligned_images(data, count=count, seed=seed), frames)
    return scores, judge_samples(features, bank or procedural_bank(), seed=seed)
