"""Judging finds features that name the place perfect, chance at chance, and the bundled weights far above MIND-SSC."""

from __future__ import annotations

import json

import pytest
import torch

from pretraining.aligned import aligned_images, read_brain
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import Weights, find_weights, load_weights
from pretraining.judge import averaged, contenders, judge, network_features, table, write_scores
from tests.pretraining.aligned_folders import brain_folder, limbs_folder


@pytest.fixture
def brain(tmp_path):
    regions = torch.from_numpy(brain_folder(tmp_path / "brain")).long()
    return read_brain(tmp_path / "brain", count=400), regions


def test_features_that_name_the_region_are_perfect_and_noise_is_at_chance(brain):
    images, regions = brain
    generator = torch.Generator().manual_seed(0)
    scores = judge(
        {
            "regions": lambda image: torch.nn.functional.one_hot(regions).movedim(-1, 0).float(),
            "noise": lambda image: torch.randn(8, *image.shape, generator=generator),
        },
        [images],
    )
    assert [(score.features, score.second) for score in scores] == [
        (name, second) for name in ("regions", "noise") for second in ("t2", "pd", "ct")
    ]
    for score in scores:
        if score.features == "regions":
            assert score.nearest == score.separation == 1
        else:
            assert score.nearest == pytest.approx(score.chance, abs=0.07) and score.separation == pytest.approx(0.5, abs=0.03)
        assert score.chance == pytest.approx(1 / 8, abs=0.02)


def test_every_image_is_looked_at_once(brain):
    images, _ = brain
    seen = []
    judge({"a": lambda image: seen.append(image) or torch.rand(2, *image.shape)}, [images])
    assert len(seen) == 4


def test_contenders_are_the_weights_a_random_start_and_mind(brain):
    images, _ = brain
    net = UNet(UNetConfig(width=2, poolings=2))
    weights = Weights(UNetConfig(width=2, poolings=2), net.state_dict(), {}, "")
    features = contenders(weights, name="mine")
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
        aligned_images(tmp_path, count=60),
    )
    means = averaged(scores)
    assert [(mean.features, mean.subject) for mean in means] == [(f, s) for s in ("template", "mean of 2") for f in ("grey", "axes")]
    values = [score.nearest for score in scores if score.features == "grey" and score.subject in "ab"]
    assert means[2].nearest == pytest.approx(sum(values) / 2)
    lines = table(scores).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert "T1 → T2" in lines[2] and "for choosing" in lines[2] and "T1 → CT" in lines[3] and "only reported" in lines[3]
    write_scores(tmp_path / "scores.json", scores, weights="none")
    written = json.loads((tmp_path / "scores.json").read_text())
    assert (written["weights"], len(written["scores"]), len(written["subjects"])) == ("none", 4, 6)


def test_the_bundled_weights_reach_the_goal_and_their_card_tells_the_truth(data_root):
    weights = load_weights(find_weights("bundled"))
    brain = read_brain(data_root / "registration" / "mni_multimodal", ("t2", "pd"))
    scores = {score.second: score for score in judge({"bundled": network_features(weights.network())}, [brain])}
    assert scores["t2"].nearest > 0.65 and scores["pd"].nearest > 0.60
    for second, score in scores.items():
        said = weights.card["judge"]["pairs"][f"mni_multimodal t1 to {second}"]
        assert score.nearest == pytest.approx(said["nearest"][weights.card["name"]], abs=0.01)
        assert score.separation == pytest.approx(said["separation"][weights.card["name"]], abs=0.01)
        assert max(said["nearest"][name] for name in ("random init", "MIND-SSC")) < score.nearest - 0.2
