"""The page of artefacts shows all artefacts of the engine's tables."""

import numpy as np
import torch
from matplotlib.image import imread

from pretraining.engine import appearance, online
from pretraining.engine.artefacts.gamma import GammaConfig, sample_gamma
from pretraining.engine.synthesis import EngineConfig
from pretraining.previews.artefacts import artefact_page, make_examples
from pretraining.templates.procedural import procedural_bank

CONFIG = EngineConfig(side=32)
GEOMETRY = ["flip", "affine"]


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Make a view and its labels."""
    labels = torch.zeros((20, 18, 16), dtype=torch.uint8)
    labels[4:12, 5:14, 3:13] = 1
    noise = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    return appearance.min_max(labels * 0.6 + 0.2 * noise), labels


def test_every_artefact_is_there_and_the_strong_one_changes_more():
    view, labels = scene()
    shown = make_examples(view, labels, CONFIG)
    assert [example.name for example in shown] == [*appearance.ARTEFACTS, *GEOMETRY, *online.ARTEFACTS]
    assert [example.offline for example in shown] == [True] * len(appearance.ARTEFACTS) + [False] * (
        len(shown) - len(appearance.ARTEFACTS)
    )
    clean = view[..., 8]
    changes = [[(picture - clean).abs().mean() for picture in (example.weak, example.strong)] for example in shown]
    # Strength is measured on the volume, and the picture is a slice: sums, not pairs.
    assert sum(strong for _, strong in changes) > 1.5 * sum(weak for weak, _ in changes)
    assert all(strong > 0 for _, strong in changes)


def test_a_new_artefact_appears_by_itself(monkeypatch):
    def negative(view: torch.Tensor, params: object) -> torch.Tensor:
        return -view

    view, labels = scene()
    monkeypatch.setitem(appearance.ARTEFACTS, "gamma", (sample_gamma, negative))
    by_name = {example.name: example for example in make_examples(view, labels, CONFIG) if example.offline}
    torch.testing.assert_close(by_name["gamma"].strong, appearance.min_max(-view)[..., 8])
    assert GammaConfig().probability < 1  # the page shows it although it does not always happen


def test_the_page_is_a_picture_and_the_same_each_time(tmp_path):
    bank = procedural_bank(count=8)
    names = artefact_page(bank, CONFIG, tmp_path / "page.png")
    assert len(names) == len(appearance.ARTEFACTS) + len(GEOMETRY) + len(online.ARTEFACTS)
    artefact_page(bank, CONFIG, tmp_path / "again.png")
    picture = imread(tmp_path / "page.png")
    assert picture[..., :3].std() > 0.1 and min(picture.shape[:2]) > 800
    assert np.array_equal(picture, imread(tmp_path / "again.png"))
