"""Test that features of the anatomy score in every frame, those of the position only in one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import Weights
from pretraining.probing.aligned import read_aligned_images, read_brain
from pretraining.probing.frames import ALIGNED, TURNED, Frame
from pretraining.probing.judge import (
    judge,
    judge_samples,
    make_feature_extractors,
    network_features,
)
from pretraining.probing.scores import mean_scores, table, write_scores
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.probing.aligned_folders import brain_folder, limbs_folder


@pytest.fixture
def brain(tmp_path):
    regions = torch.from_numpy(brain_folder(tmp_path / "brain", shape=(18, 20, 16))).long()
    return read_brain(tmp_path / "brain", count=400), regions


def one_hot(regions: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(regions, 10).movedim(-1, 0).float()


def grey_value(image: torch.Tensor) -> torch.Tensor:
    """Encode the anatomy of a scan whose regions have distinct grey values."""
    return one_hot((image / 10).round().long())


def place_in_frame(image: torch.Tensor) -> torch.Tensor:
    """Encode the position, like a network that uses only the border of its window."""
    axes = torch.meshgrid(*[torch.arange(float(side)) for side in image.shape], indexing="ij")
    return torch.cat([torch.stack([(axis / 5).sin(), (axis / 5).cos()]) for axis in axes])


def test_features_that_name_the_region_are_perfect_and_noise_is_at_chance(brain):
    images, regions = brain
    generator = torch.Generator().manual_seed(0)
    noise = {"noise": lambda image: torch.randn(8, *image.shape, generator=generator)}
    scores = judge({"regions": lambda image: one_hot(regions), **noise}, [images], [ALIGNED])
    assert [(score.features, score.second) for score in scores] == [
        (name, second) for name in ("regions", "noise") for second in ("t2", "pd", "ct")
    ]
    for score in scores:
        if score.features == "regions":
            assert score.nearest == score.separation == 1
        else:
            assert score.nearest == pytest.approx(score.chance, abs=0.07) and score.separation == pytest.approx(
                0.5, abs=0.03
            )
            assert score.local < 0.06
        assert score.chance == pytest.approx(1 / 8, abs=0.02)


def test_features_of_the_place_are_found_out_by_the_frames_and_features_of_the_anatomy_are_not(brain):
    images, _ = brain
    grey = {name: image for name, image in images.images.items() if name in ("t1", "t2")}
    # Modalities that look alike, so that grey values name the anatomy.
    same_looks = replace(images, images={**grey, "t2": grey["t1"]}, modality_pairs=images.modality_pairs[:1])
    scores = judge({"place": place_in_frame, "anatomy": grey_value}, [same_looks], [ALIGNED, FEW, TURNED])
    rate = {(score.features, score.frame): score.nearest for score in scores}
    assert rate["place", "aligned"] == rate["anatomy", "aligned"] == rate["anatomy", "few"] == 1
    assert rate["place", "few"] < 0.6 and rate["anatomy", "turned"] > 0.8
    local = {(score.features, score.frame): score.local for score in scores}
    assert local["place", "aligned"] == 1 and local["place", "few"] < 0.05


FEW = Frame(name="few", margin_vox=7)
"""Frame with a small margin, for small images."""


def test_every_image_is_looked_at_once_in_each_frame(brain):
    images, _ = brain
    seen = []
    judge({"a": lambda image: seen.append(image) or torch.rand(2, *image.shape)}, [images], [ALIGNED, FEW])
    assert len(seen) == 1 + 3 * 2


def test_the_local_rate_on_samples_is_perfect_for_a_code_of_the_labels_place_and_chance_for_the_windows():
    bank = procedural_bank(8)
    rates = judge_samples({"place": place_in_frame, "grey": lambda view: view[None]}, bank, count=2)
    assert (
        rates["place"] < 0.02
        and rates["grey"] < 0.2
        and rates == judge_samples({"place": place_in_frame, "grey": lambda view: view[None]}, bank, count=2)
    )


def test_extractors_are_those_of_the_weights_a_random_network_and_mind(brain):
    images, _ = brain
    net = UNet(UNetConfig(width=2, poolings=2))
    weights = Weights(UNetConfig(width=2, poolings=2), net.state_dict(), {}, "")
    features = make_feature_extractors(weights, name="mine")
    assert list(features) == ["random init", "MIND-SSC", "mine"]
    found = {name: extract(images.images["t1"]) for name, extract in features.items()}
    assert {name: len(of) for name, of in found.items()} == {"random init": 16, "MIND-SSC": 12, "mine": 16}
    torch.testing.assert_close(found["mine"], network_features(net)(images.images["t1"]))
    assert not torch.allclose(found["random init"], found["mine"])


def test_a_network_in_training_goes_on_training(brain):
    net = UNet(UNetConfig(width=2, poolings=2)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    network_features(net)(brain[0].images["t1"])
    assert net.training and all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_means_table_and_file(tmp_path):
    brain_folder(tmp_path / "mni_multimodal", modalities=("t2",))
    limbs_folder(tmp_path / "Dataset903_LimbSarcoma", cases=("a", "b"))
    scores = judge(
        {"grey": lambda image: torch.stack([image, image**2]), "axes": lambda image: torch.rand(3, *image.shape)},
        read_aligned_images(tmp_path, count=60),
        [ALIGNED],
    )
    means = mean_scores(scores)
    assert [(mean.features, mean.subject) for mean in means] == [
        (f, s) for s in ("template", "mean of 2") for f in ("grey", "axes")
    ]
    values = [score.nearest for score in scores if score.features == "grey" and score.subject in "ab"]
    assert means[2].nearest == pytest.approx(sum(values) / 2)
    lines = table(scores, {"grey": 0.25}).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert "synthetic samples" in lines[4] and "0.250" in lines[4]
    assert (
        "T1 → T2" in lines[2] and "for choosing" in lines[2] and "T1 → CT" in lines[3] and "only reported" in lines[3]
    )
    write_scores(tmp_path / "scores.json", scores, weights="none")
    written = json.loads((tmp_path / "scores.json").read_text())
    assert (written["weights"], len(written["scores"]), len(written["subjects"])) == ("none", 4, 6)
