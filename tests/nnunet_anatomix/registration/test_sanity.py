"""Tests that NaN and invalid numbers are errors, and that nothing is written."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.cli import main
from nnunet_anatomix.features.extract import extract_features
from nnunet_anatomix.registration.batch import BatchSettings
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.solvers.ants import AntsConfig
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from nnunet_anatomix.registration.start.initial import file_start
from nnunet_anatomix.registration.tuning.pairs import SearchPair
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import FORMAT, Weights, tensors_sha256
from pretraining.common.config import to_dict
from pretraining.common.errors import InputError
from pretraining.common.finite import NotFinite, require_finite

CONFIG = UNetConfig(width=2, poolings=2, out_channels=3)


def scan(seed: int = 0) -> sitk.Image:
    values = np.random.default_rng(seed).normal(100, 20, (20, 18, 22)).astype(np.float32)
    values[5:15, 4:14, 6:16] += 200
    return sitk.GetImageFromArray(values)


def spoilt_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = {name: tensor.clone() for name, tensor in UNet(CONFIG).state_dict().items()}
    state["bottleneck.0.conv.weight"][:] = torch.nan
    return state


def spoilt_file(path):
    """Write weights with one tensor of NaN, as an earlier version did without an error."""
    import safetensors.torch

    state = spoilt_state()
    card = {"name": "spoilt", "sha256": tensors_sha256(state)}
    metadata = {"format": FORMAT, "architecture": json.dumps(to_dict(CONFIG)), "card": json.dumps(card)}
    safetensors.torch.save_file(state, path, metadata)
    return path


@pytest.mark.parametrize("init", ["none", "auto"])
def test_weights_with_a_nan_tensor_end_a_registration_before_it_begins(tmp_path, monkeypatch, init):
    """Regression: this gave a field of NaN, 'folds: 0.00 %' and exit code 0."""
    for name in ("fixed", "moving"):
        sitk.WriteImage(scan(len(name)), str(tmp_path / f"{name}.nii.gz"))
    files = [
        "--fixed",
        str(tmp_path / "fixed.nii.gz"),
        "--moving",
        str(tmp_path / "moving.nii.gz"),
        "--out",
        str(tmp_path / "out"),
    ]
    weights = ["--features", str(spoilt_file(tmp_path / "w.safetensors")), "--init", init, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["nnunet-anatomix", "register", *files, *weights])
    with pytest.raises(SystemExit, match=r"values of 'bottleneck\.0\.conv\.weight' are NaN or infinite"):
        main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("solver", ["none", "auto"])
def test_a_network_that_computes_nan_gives_no_registration(solver):
    net = UNet(CONFIG)
    net.load_state_dict(spoilt_state())
    config = RegistrationConfig(
        init=solver, descriptors=DescriptorConfig(side=16), convexadam=ConvexAdamConfig(grid_spacing=4, iterations=(2,))
    )
    with pytest.raises(NotFinite, match="NaN or infinite; nothing is written"):
        register(scan(0), scan(1), config=config, features=net.eval())


def test_features_that_are_nan_are_not_handed_out():
    with pytest.raises(NotFinite, match=r"^features: [\d,]+ of 23,760 values are NaN"):
        extract_features(scan(), Weights(CONFIG, spoilt_state()), bf16=False, whole=True)


def test_values_are_counted_wherever_they_lie():
    values = torch.zeros(3, 5, 7)
    require_finite(values, "field")
    require_finite({"counter": torch.ones(3, dtype=torch.int64), "empty": torch.zeros(0)}, "state")
    values[2, 4, 6], values[0, 0, 0] = torch.inf, torch.nan
    for one in (values, values.permute(2, 0, 1), values.half()):
        with pytest.raises(NotFinite, match=r"^field: 2 of 105 values are"):
            require_finite(one, "field")
    with pytest.raises(NotFinite, match=r"^weights: 2 of 105 values of 'b' are"):
        require_finite({"a": torch.zeros(2), "b": values}, "weights")


@pytest.mark.parametrize("ending", [".tfm", ".h5", ".txt"])
def test_a_start_that_is_nan_is_refused(tmp_path, ending):
    sitk.WriteTransform(sitk.TranslationTransform(3, (np.nan, 0.0, 0.0)), str(tmp_path / f"start{ending}"))
    # ITK cannot read "nan" from text.
    with pytest.raises(InputError, match="NaN or infinity" if ending == ".h5" else "initial transform: .* unreadable"):
        file_start(tmp_path / f"start{ending}", scan(), scan())


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e9])
def test_no_grid_has_such_a_spacing(number):
    with pytest.raises(InputError, match=r"expected 0\.0001 to 100 mm"):
        RegistrationConfig(spacing_mm=number)


@pytest.mark.parametrize("window", [(5.0, 5.0), (7.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_no_intensities_are_such_a_window(window, tmp_path):
    makers = (
        lambda: BatchSettings(config=RegistrationConfig(), weights=None, fixed_clip=window),
        lambda: BatchSettings(config=RegistrationConfig(), weights=None, moving_clip=window),
        lambda: SearchPair(
            name="a", fixed=tmp_path, moving=tmp_path, fixed_labels=tmp_path, moving_labels=tmp_path, fixed_clip=window
        ),
        lambda: register(scan(0), scan(1), fixed_clip=window),
    )
    for make in makers:
        with pytest.raises(InputError, match="two finite intensities, the lower one first"):
            make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: DescriptorConfig(feature_weight=float("nan")),
        lambda: DescriptorConfig(feature_weight=float("inf")),
        lambda: DescriptorConfig(overlap=1.0),
        lambda: DescriptorConfig(overlap=float("nan")),
        lambda: ConvexAdamConfig(smoothness=float("nan")),
        lambda: ConvexAdamConfig(smoothness=float("inf")),
        lambda: AntsConfig(gradient_step=float("nan")),
        lambda: AntsConfig(feature_weight=float("inf")),
        lambda: AntsConfig(smoothing_sigmas_vox=(float("nan"), 1, 0)),
    ],
)
def test_settings_are_finite(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--spacing", "0"], 1, "spacing of the working grid: expected 0.0001 to 100 mm, found 0"),
        (["--spacing", "nan"], 1, "finite"),
        (["--fixed-clip", "5", "5"], 1, "--fixed-clip: expected two finite intensities"),
        (["--overlap", "1.5"], 1, "overlap"),
        (["--spaceing", "1"], 2, "--spaceing"),
        (["--fixed-clip", "5"], 2, "--fixed-clip"),
    ],
)
def test_wrong_numbers_are_one_line_of_the_command(tmp_path, monkeypatch, flags, code, said):
    for name in ("fixed", "moving"):
        sitk.WriteImage(scan(len(name)), str(tmp_path / f"{name}.nii.gz"))
    files = [
        "--fixed",
        str(tmp_path / "fixed.nii.gz"),
        "--moving",
        str(tmp_path / "moving.nii.gz"),
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["nnunet-anatomix", "register", *files, "--features", "none", *flags])
    with pytest.raises(SystemExit) as stopped:
        main()
    line = str(stopped.value)
    assert said in line and "\n" not in line and stopped.value.code == (line if code == 1 else code)
    assert not (tmp_path / "out").exists()
