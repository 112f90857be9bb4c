"""Plans, checkpoints and weights that an earlier version wrote (tests/written_before/README.md)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.weights import load_weights
from pretraining.common.config import read_json
from pretraining.learning.export import export_run
from pretraining.learning.train import train
from pretraining.learning.train_config import TrainConfig
from pretraining.templates.procedural import procedural_bank

WRITTEN_BEFORE = Path(__file__).parent / "written_before"


def test_an_older_plan_and_checkpoint_predict_as_they_did():
    predictor = nnUNetPredictor(use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(
        str(WRITTEN_BEFORE / "model"), ("all",), checkpoint_name="checkpoint_final.pth"
    )
    patch = torch.linspace(0, 1, 32**3).reshape(1, 32, 32, 32).sin().mul(7).cos()
    found = predictor.predict_logits_from_preprocessed_data(patch).float().numpy()[:, ::4, ::4, ::4]
    with np.load(WRITTEN_BEFORE / "model" / "logits.npz") as before:
        np.testing.assert_allclose(found, before["logits"], atol=0.02)  # nnU-Net returns half precision


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint.pt", "config.json"):
        shutil.copy(WRITTEN_BEFORE / "run" / name, folder)
    return folder


def test_an_older_pretraining_resumes_to_the_same_weights(run):
    config = read_json(TrainConfig, run / "config.json")
    after = train(run, config, procedural_bank(8), resume=True, device="cpu", workers=0)
    assert after.step == 2
    expected = torch.load(WRITTEN_BEFORE / "run" / "model_after_step_2.pt", weights_only=True)
    assert after.model.keys() == expected.keys()
    # Normalization cancels the biases of projection heads. Their gradient is rounding error, of
    # which Adam takes the sign, so that they differ between processors.
    expected = {name: tensor for name, tensor in expected.items() if not re.fullmatch(r"heads\.\d\.\d\.bias", name)}
    assert len(expected) > 100
    for name, tensor in expected.items():
        torch.testing.assert_close(after.model[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_an_older_pretraining_is_exported(run, tmp_path):
    weights = export_run(run, tmp_path / "weights.safetensors", file_format="safetensors", which="last")
    again = load_weights(tmp_path / "weights.safetensors")
    assert again.sha256 == weights.sha256 and again.architecture.width == 2


def test_the_first_bundled_weights_make_features():
    features = load_weights(find_weights()).network()(torch.rand(1, 1, 32, 32, 32))
    assert features.shape == (1, 16, 32, 32, 32) and bool(features.isfinite().all())
