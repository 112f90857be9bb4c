"""Placed templates equal whole arrays that SciPy pads, repeats and maps."""

import numpy as np
import pytest
import torch

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.random import sample_generator
from pretraining.engine import placement
from pretraining.engine.affine import AffineConfig, sample_affine
from pretraining.engine.ensemble import PLACEMENTS
from tests.oracles.label_ensemble import mapped_coordinates, near_a_border, paper_template, published_template

SHAPE = (32, 24, 20)
CROPS = [(9, 12, 7), (40, 5, 21), (32, 24, 20), (61, 33, 47)]
ORACLES = {"published": published_template, "paper": paper_template}


def bank_of_blobs() -> TemplateBank:
    rng = np.random.default_rng(0)
    masks = [rng.random(crop) < 0.4 for crop in CROPS]
    for mask in masks:
        mask[0, 0, 0] = mask[-1, -1, -1] = True
    return TemplateBank.from_masks(masks, ["blob"] * len(masks), source="test", spacing_mm=1.5)


@pytest.mark.parametrize("mode", ["published", "paper"])
@pytest.mark.parametrize("template", range(len(CROPS)))
@pytest.mark.parametrize("index", range(3))
def test_equals_scipy(mode, template, index):
    bank = bank_of_blobs()
    matrix = sample_affine(AffineConfig(), sample_generator(0, index))
    placed = PLACEMENTS[mode](matrix, bank.shape(template), SHAPE)
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    placement.paste_templates(labels, [bank.packed(template)], [placed])
    differs = (labels > 0).numpy() != ORACLES[mode](bank.mask(template).numpy(), matrix, SHAPE)
    middle = (np.array(SHAPE) - 1) / 2 if mode == "paper" else np.zeros(3)
    about = np.column_stack([matrix[:, :3], matrix[:, 3] + middle - matrix[:, :3] @ middle])
    assert not (differs & ~near_a_border(mapped_coordinates(about, SHAPE), 2e-4)).any()
    assert labels.any() or template < 2


def test_identity_shows_the_padded_template():
    bank = bank_of_blobs()
    matrix = np.eye(3, 4)
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    placement.paste_templates(labels, [bank.packed(0)], [PLACEMENTS["published"](matrix, bank.shape(0), SHAPE)])
    assert torch.equal(labels[11:20, 6:18, 6:13] > 0, bank.mask(0)) and labels.sum() == bank.mask(0).sum()


def test_the_devices_way_equals_the_hosts_and_later_templates_win():
    bank = bank_of_blobs()
    templates = [0, 3, 1, 2, 0, 1]
    matrices = [sample_affine(AffineConfig(), sample_generator(1, index)) for index in range(len(templates))]
    placed = [
        PLACEMENTS["published"](matrix, bank.shape(i), SHAPE) for i, matrix in zip(templates, matrices, strict=True)
    ]
    on_host, as_on_device, one_by_one = (torch.zeros(SHAPE, dtype=torch.uint8) for _ in range(3))
    placement.paste_templates(on_host, [bank.packed(i) for i in templates], placed)
    placement._paste_one_by_one(as_on_device, [bank.packed(i) for i in templates], placed)
    assert torch.equal(on_host, as_on_device)
    for label, (i, where) in enumerate(zip(templates, placed, strict=True), start=1):
        alone = torch.zeros(SHAPE, dtype=torch.uint8)
        placement.paste_templates(alone, [bank.packed(i)], [where])
        one_by_one[alone > 0] = label
    assert torch.equal(on_host, one_by_one)
